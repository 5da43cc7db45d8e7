"""The address that a server listens on, and why it cannot."""

import errno
import socket

from galley.cli.console import fail
from galley.core.settings import Settings


def take_address(settings: Settings) -> socket.socket:
    """Take the address before anything slow happens; nobody can connect before it listens."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        # Named, the protocol gets TCP_NODELAY from every event loop, asyncio's own included.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        fail(why_not(settings, error))
    return listener


def why_not(settings: Settings, error: OSError) -> str:
    """Return why nobody can listen there, and what to do."""
    host, port = settings.host, settings.port
    if error.errno == errno.EADDRINUSE:
        another = f"galley serve --port {port + 1 if port < 65535 else 8000}"
        return (
            f"Port {port} on {host} is taken. By another program? Choose another port: {another}. "
            "By Galley? Use it as it is, or stop it; a second one needs data of its own as well: "
            f"{another} --data-dir ./galley-2"
        )
    if error.errno == errno.EACCES:
        return f"Port {port} is for root alone. Choose one above 1023: galley serve --port 8000"
    return f"Cannot listen on {host}: {error.strerror}. Choose an address of this machine: --host"
