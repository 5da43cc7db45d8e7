"""The real nginx with `deploy/nginx.conf`, on free ports, in front of servers on loopback."""

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.certificates import loopback_certificate
from tests.node import free_port

CONFIG = Path(__file__).parent.parent / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")


@dataclass(frozen=True)
class Front:
    """A running nginx: where it is, and what a client needs to trust it."""

    url: str
    plain_url: str
    trust: ssl.SSLContext
    log: Path


@contextmanager
def nginx(ports: Sequence[int], folder: Path) -> Generator[Front]:
    """Run nginx in front of the servers on `ports`; the file's two, or more of the same."""
    assert NGINX, "nginx is missing: scripts/test-system-packages installs it"
    folder.mkdir()
    _, certificate = loopback_certificate(folder)
    port, plain = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(_on_free_ports(CONFIG.read_text(), ports, port, plain, folder))
    log = folder / "error.log"
    alone = f"daemon off; pid {folder}/nginx.pid; error_log {log};"
    if os.geteuid() == 0:
        alone += " user root;"  # else its workers are nobody, who may write nothing here
    command = [NGINX, "-p", str(folder), "-e", str(log), "-c", str(config), "-g", alone]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    front = Front(
        f"https://127.0.0.1:{port}",
        f"http://127.0.0.1:{plain}",
        ssl.create_default_context(cafile=str(certificate)),
        log,
    )
    try:
        _until_it_answers(front, process)
        yield front
    finally:
        process.terminate()
        process.wait(10)


def _on_free_ports(text: str, ports: Sequence[int], port: int, plain: int, folder: Path) -> str:
    """Change what an operator would: servers, ports and certificate; and where files go."""
    lines: list[str] = []
    for line in text.splitlines():
        found = line.strip()
        if found.startswith("server 127.0.0.1:8000 "):
            lines += [line.replace(":8000 ", f":{server} ") for server in ports]
        elif not found.startswith("server 127.0.0.1:8001 "):
            lines.append(line)
    places = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    changed = "\n".join(lines) + "\n"
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("/etc/nginx/galley.crt", f"{folder}/certificate.pem"),
        ("/etc/nginx/galley.key", f"{folder}/key.pem"),
        ("http {\n", f"http {{\n{places}"),
        ("worker_processes auto;", "worker_processes 1;"),
    ):
        assert changed.count(old) == 1, old
        changed = changed.replace(old, new)
    return changed


def _until_it_answers(front: Front, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 10
    while True:
        assert process.poll() is None, front.log.read_text()
        try:
            httpx2.get(front.plain_url, follow_redirects=False)
        except httpx2.TransportError:
            assert time.monotonic() < end, front.log.read_text()
            time.sleep(0.02)
        else:
            return
