"""kill -9, of the server and of its engine, under load."""

import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil

from galley.core.security import make_key
from galley.db.tables import id_bytes
from tests.load import Ask, Load
from tests.node import galley_serve
from tests.serving import LiveServer, make_settings, serving

CHAT: dict[str, Any] = {
    "model": "galley/chat",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
}
EMBED: dict[str, Any] = {"model": "galley/embeddings", "input": "hello"}


ASKS: Sequence[Ask] = [
    *(("/v1/chat/completions", CHAT | {"stream": n % 2 == 0}) for n in range(4)),
    *[("/v1/embeddings", EMBED)] * 2,
]


def load_of(url: str, key: str) -> Load:
    """Load on one server with the embedded models."""
    headers = {"authorization": f"Bearer {key}"}
    return Load(lambda: httpx2.Client(base_url=url, headers=headers, timeout=30), ASKS)


def test_every_answer_seen_before_a_kill_is_in_the_ledger(models_dir: Path, tmp_path: Path) -> None:
    key = make_key()
    with (
        galley_serve(tmp_path, models_dir, key) as (url, pid),
        load_of(url, key) as load,
    ):
        time.sleep(4)
        children = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)

    with sqlite3.connect(tmp_path / "galley.db") as database:
        rows = dict(database.execute("SELECT request_id, state FROM api_requests"))
    assert len(load.whole) > 20
    assert {rows.get(id_bytes(request_id)) for request_id in load.whole} == {"completed"}
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
        with load_of(server.url, server.key) as load:
            time.sleep(1.5)
            kill_engine(server)
            killed = time.monotonic()
            time.sleep(0.3)

        assert load.failed, "nobody noticed"
        assert 503 in {failure.status for failure in load.failed}
        for failure in load.failed:  # 200 is a stream that had begun
            assert failure.status in (200, 503)
            assert '"code":"engine_unavailable"' in failure.told
        while (answer := server.post("/v1/chat/completions", **CHAT)).status_code != 200:
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - killed < 30
            time.sleep(0.1)
        assert server.post("/v1/embeddings", **EMBED).status_code == 200


def kill_engine(server: LiveServer) -> None:
    os.kill(server.app.state.runtime.models.find("galley/chat").engine.pid, signal.SIGKILL)
