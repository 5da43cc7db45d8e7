"""kill -9 in the middle of a batch: after the next start every line is done, once."""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.security import make_key
from galley.db.tables import id_bytes
from tests.node import galley_serve
from tests.routers.batch_files import content, embedding_lines, ended, start
from tests.serving import LiveServer, make_settings, serving

MODEL = "all-minilm-l6-v2"
MODELS = {MODEL: EMBEDDED_MODELS[MODEL].model_dump(mode="json", exclude_defaults=True)}
ONE_MODEL = {
    "GALLEY_EMBEDDED_MODELS": "false",
    "GALLEY_MODELS": orjson.dumps(MODELS).decode(),
}


LONG = ["a long text " * 20] * 2


def server(data_dir: Path, models_dir: Path, key: str) -> Any:
    return galley_serve(data_dir, models_dir, key, **ONE_MODEL)


def client_of(url: str, key: str) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=60)


def until_done(data_dir: Path, least: int) -> None:
    """Wait until so many lines of the batch are on disk."""
    end = time.monotonic() + 60
    while sum(part.read_bytes().count(b"\nR ") for part in parts(data_dir)) < least:
        assert time.monotonic() < end
        time.sleep(0.01)


def parts(data_dir: Path) -> list[Path]:
    return list((data_dir / "batches").glob("*/*.part"))


def booked(data_dir: Path) -> list[tuple[bytes, str, int]]:
    with closing(sqlite3.connect(data_dir / "galley.db")) as database:
        query = "SELECT request_id, state, prompt_tokens + completion_tokens FROM api_requests"
        return database.execute(query).fetchall()


def check_whole(client: httpx2.Client, batch: dict[str, Any], data_dir: Path, count: int) -> None:
    """Every line is in the output and in the ledger, once, and nothing else is."""
    lines = content(client, batch["output_file_id"])
    rows = booked(data_dir)

    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert [line["custom_id"] for line in lines] == [f"line-{n}" for n in range(1, count + 1)]
    assert {state for _, state, _ in rows} == {"completed"}
    assert sorted(row for row, _, _ in rows) == sorted(
        id_bytes(line["response"]["request_id"]) for line in lines
    )
    assert batch["usage"]["total_tokens"] == sum(tokens for _, _, tokens in rows)
    wait(lambda: not parts(data_dir))  # a moment after the batch has ended


@pytest.mark.parametrize(
    ("count", "kills"), [(40, [5]), pytest.param(500, [60, 300], marks=pytest.mark.slow)]
)
def test_a_batch_survives_kills_with_every_line_answered_and_booked_once(
    models_dir: Path, tmp_path: Path, count: int, kills: list[int]
) -> None:
    key = make_key()
    made: dict[str, Any] = {}
    for least in kills:  # lines that are done when it comes
        with server(tmp_path, models_dir, key) as (url, pid), client_of(url, key) as client:
            made = made or start(client, embedding_lines(count, input=LONG))
            until_done(tmp_path, least)
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        assert len(booked(tmp_path)) < count

    with server(tmp_path, models_dir, key) as (url, _), client_of(url, key) as client:
        batch = ended(client, made)

        check_whole(client, batch, tmp_path, count)


def test_a_batch_goes_on_after_a_stop_and_no_line_has_failed_by_it(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path, models_dir, embedded_models=False, models=MODELS)
    with serving(settings) as stopped:
        stopped.until_ready()
        made = start(stopped.client, embedding_lines(200, input=LONG))
        until_done(tmp_path, 5)
    rows = booked(tmp_path)

    with serving(settings) as again:
        batch = ended(again.client, made)

        assert 5 <= len(rows) < 200
        check_whole(again.client, batch, tmp_path, 200)


def test_an_upload_that_breaks_off_leaves_nothing(live_server: LiveServer) -> None:
    files = live_server.settings.data_dir / "files"
    before = set(files.glob("*"))
    host, port = live_server.url.removeprefix("http://").split(":")
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: galley\r\nContent-Length: 3000000\r\n"
        f"Authorization: Bearer {live_server.key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(head.encode() + b"a" * 2_000_000)
        wait(lambda: {path.suffix for path in set(files.glob("*")) - before} == {".part"})

    wait(lambda: set(files.glob("*")) == before)


def wait(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
