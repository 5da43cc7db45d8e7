"""A small model hub on loopback, which can break off, lie, or refuse."""

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    """By `ORGANISATION/REPOSITORY/FILE`."""
    cuts: int = 0
    """So many downloads break off in the middle."""
    lies: bool = False
    """Name files by another hash than theirs."""
    ignores_ranges: bool = False
    refusal: int | None = None
    """Answer everything with this status."""
    base_url: str = ""
    asked: list[str] = field(default_factory=list[str])
    """Method, path and range of each request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the test reads `asked`."""

    def _answer(self, *, body: bool) -> None:
        hub, given = self.hub, self.headers.get("Range", "")
        hub.asked.append(f"{self.command} {self.path} {given}".strip())
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        if match is None or hub.refusal:
            return self._refuse(hub.refusal or 404)
        content = hub.files.get(f"{match[1]}/{match[2]}")
        if content is None:
            known = any(name.startswith(f"{match[1]}/") for name in hub.files)
            return self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
        start = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
        if hub.ignores_ranges:
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content + b"!" * hub.lies).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send(content[start:])
        return None

    def _send(self, content: bytes) -> None:
        if self.hub.cuts:
            self.hub.cuts -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving_hub(files: dict[str, bytes]) -> Generator[Hub]:
    """Serve `files` until the block ends."""
    hub = Hub(files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
