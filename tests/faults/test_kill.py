"""kill -9, of the server and of its engine, under load."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from galley.core.security import make_key
from galley.db.tables import id_bytes
from tests.serving import LiveServer, make_settings, serving

CHAT: dict[str, Any] = {
    "model": "galley/chat",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
}
EMBED: dict[str, Any] = {"model": "galley/embeddings", "input": "hello"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def galley_serve(
    data_dir: Path, models_dir: Path, key: str, **more: str
) -> Generator[tuple[str, int]]:
    """Run `galley serve` in a process of its own; yields its URL and process id."""
    port = free_port()
    settings = {
        "GALLEY_DATA_DIR": str(data_dir),
        "GALLEY_MODELS_DIR": str(models_dir),
        "GALLEY_PORT": str(port),
        "GALLEY_BOOTSTRAP_KEY": key,
        "GALLEY_EMBEDDED_DOCUMENTS": "false",
        **more,
    }
    command = [Path(sys.executable).with_name("galley"), "serve"]
    with (data_dir / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not is_ready(url):
            assert process.poll() is None, (data_dir / "server.log").read_text()
            assert time.monotonic() < end, (data_dir / "server.log").read_text()
            time.sleep(0.05)
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


class Load:
    """Clients that ask again and again, and remember every answer they saw whole."""

    def __init__(self, url: str, key: str) -> None:
        self.seen: list[str] = []
        self.failures: list[tuple[int, dict[str, Any]]] = []
        self._stop = threading.Event()
        asks = [("/v1/chat/completions", CHAT | {"stream": i % 2 == 0}) for i in range(4)]
        asks += [("/v1/embeddings", EMBED)] * 2
        self._threads = [
            threading.Thread(target=self._ask, args=(url, key, path, body)) for path, body in asks
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, key: str, path: str, body: dict[str, Any]) -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(path, json=body)
                except httpx2.TransportError:
                    return
                whole = not body.get("stream") or answer.text.endswith("data: [DONE]\n\n")
                if answer.status_code == 200 and whole:
                    self.seen.append(answer.headers["request-id"])
                elif answer.status_code != 200:
                    self.failures.append((answer.status_code, answer.json()))


def test_every_answer_seen_before_a_kill_is_in_the_ledger(models_dir: Path, tmp_path: Path) -> None:
    key = make_key()
    with (
        galley_serve(tmp_path, models_dir, key) as (url, pid),
        Load(url, key) as load,
    ):
        time.sleep(4)
        children = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)

    with sqlite3.connect(tmp_path / "galley.db") as database:
        rows = dict(database.execute("SELECT request_id, state FROM api_requests"))
    assert len(load.seen) > 20
    assert {rows.get(id_bytes(request_id)) for request_id in load.seen} == {"completed"}
    assert psutil.wait_procs(children, timeout=10)[1] == []

    # The next start finds what was still open, and says so.
    with galley_serve(tmp_path, models_dir, key), sqlite3.connect(tmp_path / "galley.db") as after:
        states = dict(after.execute("SELECT state, count(*) FROM api_requests GROUP BY state"))
    assert "open" not in states


def test_a_killed_engine_is_a_clean_503_and_the_next_request_works(
    models_dir: Path, tmp_path: Path
) -> None:
    with serving(make_settings(tmp_path, models_dir)) as server:
        server.until_ready()
        with Load(server.url, server.key) as load:
            time.sleep(1.5)
            kill_engine(server)
            killed = time.monotonic()
            time.sleep(0.3)

        assert load.failures, "nobody noticed"
        for status, body in load.failures:
            assert status == 503
            assert body["error"]["code"] == "engine_unavailable"
        while (answer := server.post("/v1/chat/completions", **CHAT)).status_code != 200:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - killed < 30
            time.sleep(0.1)
        assert server.post("/v1/embeddings", **EMBED).status_code == 200


def kill_engine(server: LiveServer) -> None:
    os.kill(server.app.state.runtime.models.find("galley/chat").engine.pid, signal.SIGKILL)
