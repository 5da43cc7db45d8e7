"""A server on loopback that answers with exactly the bytes it was given, right or wrong."""

import socket
import socketserver
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

HANG = b""
"""In place of an answer: say nothing until the client hangs up."""


@dataclass
class Script:
    """What the server answers, one entry per request, and what it was asked."""

    answers: list[Sequence[bytes]]
    base_url: str = ""
    requests: list[bytes] = field(default_factory=list[bytes])
    hung_up: threading.Event = field(default_factory=threading.Event)


def http(
    body: bytes | str, *, status: str = "200 OK", type_: str = "application/json", **headers: str
) -> bytes:
    """Write an HTTP answer, with underscores for the dashes in `headers`."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"content-type: {type_}", f"content-length: {len(content)}"]
    lines.append("connection: close")  # or a client might ask again before it sees us hang up
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def events(*data: str) -> bytes:
    """Write a stream of server-sent events that ends when the connection does."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head + "".join(f"data: {item}\n\n" for item in data).encode()


@contextmanager
def scripted_server(*answers: bytes | Sequence[bytes]) -> Generator[Script]:
    """Answer the first request with the first of `answers`, and so on; then hang up each time.

    An answer of several parts is sent part by part; `HANG` among them waits for the client.
    """
    script = Script([[a] if isinstance(a, bytes) else a for a in answers])

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if not (request := _read_request(self.request)):
                return  # somebody looked whether we are there
            script.requests.append(request)
            for part in script.answers[len(script.requests) - 1]:
                if part is not HANG:
                    self.request.sendall(part)
                elif self.request.recv(1) == b"":
                    script.hung_up.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        script.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield script
        finally:
            server.shutdown()
            serving.join()


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65_536)):
            return b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
