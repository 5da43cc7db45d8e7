"""SIGTERM: nobody new is taken, whoever is there is served or told so, and it ends in order."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.security import make_key
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.cli.program import PROGRAM, Serving, environment, run, serve
from tests.node import free_port
from tests.upstream import TEXT, in_two_parts, misbehaving

ASK = {"model": "far", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Stopping:
    """What clients saw of a server that was told to stop while it answered one of them."""

    refused: httpx2.Response
    sent_on: httpx2.Response
    large: httpx2.Response
    ready: httpx2.Response
    live: httpx2.Response
    connects: bool
    stream: str
    status: int
    took_s: float
    errors: str


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopping]:
    folder, key = tmp_path_factory.mktemp("stopping"), make_key()
    with misbehaving() as far, ExitStack() as stack:
        go_on = in_two_parts(far)
        models = json.dumps({"far": {"kind": "chat", "source": far.url}})
        env = environment(folder, embedded_models=False, bootstrap_key=key, models=models)
        asyncio.run(_make_free(folder, "far"))
        serving = stack.enter_context(serve(env=env, folder=folder))
        clients = [stack.enter_context(_client(serving, key)) for _ in range(6)]
        for client in clients:
            assert client.get("/v1/models").status_code == 200  # and keeps its connection
        asked = {**ASK, "stream": True}
        answer = stack.enter_context(clients[0].stream("POST", "/v1/chat/completions", json=asked))
        pieces = answer.iter_text()
        said = next(pieces)

        serving.process.terminate()
        began = time.monotonic()
        while connects(serving):
            time.sleep(0.01)
        _, *others = clients
        next_one, million = {"galley-next": "1"}, {"input": "x" * 1_000_000}
        found: dict[str, Any] = {
            "refused": others[0].post("/v1/chat/completions", json=ASK),
            "sent_on": others[1].post("/v1/messages", json={}, headers=next_one),
            "large": others[2].post("/classify", json=million),
            "ready": others[3].get("/health/ready"),
            "live": others[4].get("/health/live"),
        }
        go_on()
        said += "".join(pieces)
        status = serving.process.wait(30)
        yield Stopping(
            **found, connects=connects(serving), stream=said, status=status,
            took_s=time.monotonic() - began, errors=serving.errors.read_text(),
        )  # fmt: skip


def _client(serving: Serving, key: str) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=serving.base_url, headers=headers, timeout=30)


def connects(serving: Serving) -> bool:
    url = httpx2.URL(serving.base_url)
    try:
        socket.create_connection((url.host, url.port or 0)).close()
    except ConnectionRefusedError:
        return False
    return True


async def _make_free(data_dir: Path, model: str) -> None:
    async with open_database(f"sqlite+aiosqlite:///{data_dir}/galley.db") as database:
        await Pricing(database.sessions).seed_free([model])


def test_a_new_request_on_an_old_connection_is_told_to_come_again(stopping: Stopping) -> None:
    refused = stopping.refused

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_stopping"
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["connection"] == "close"
    assert "x-accel-redirect" not in refused.headers


def test_a_front_that_can_ask_another_server_is_told_to(stopping: Stopping) -> None:
    sent_on = stopping.sent_on

    assert sent_on.status_code == 503
    assert sent_on.json()["error"]["type"] == "overloaded_error"
    assert sent_on.headers["x-accel-redirect"] == "@galley_next"


def test_a_large_request_gets_its_answer_too(stopping: Stopping) -> None:
    assert stopping.large.status_code == 503
    assert "stopping" in stopping.large.json()["detail"]


def test_it_lives_and_is_not_ready(stopping: Stopping) -> None:
    assert stopping.live.status_code == 200
    assert stopping.ready.status_code == 503
    assert stopping.ready.json()["parts"]["server"] == "stopping"


def test_a_stream_in_flight_is_finished_and_it_ends_in_order(stopping: Stopping) -> None:
    events = [line.removeprefix("data: ") for line in stopping.stream.split("\n\n") if line]
    said = [json.loads(event)["choices"] for event in events if event != "[DONE]"]

    assert "".join(c["delta"].get("content") or "" for choices in said for c in choices) == TEXT
    assert events[-1] == "[DONE]"
    assert stopping.status == 0
    assert stopping.took_s < 20
    assert not stopping.connects
    assert "Traceback" not in stopping.errors


def test_a_server_that_waits_for_its_database_is_stopped_at_once(tmp_path: Path) -> None:
    nowhere = f"postgresql://me@127.0.0.1:{free_port()}/galley"
    env = environment(tmp_path, embedded_models=False, database_url=nowhere, startup_timeout=60)
    errors = tmp_path / "serve.err"
    with errors.open("wb") as told:
        process = subprocess.Popen([PROGRAM, "serve", "--port", "0"], env=env, stderr=told)
    serving = Serving(process, env, errors, errors)
    serving.until_error("waiting_for_dependency")
    began = time.monotonic()
    status = serving.stop()

    assert status == 0
    assert time.monotonic() - began < 20
    assert "Traceback" not in serving.errors.read_text()


def test_a_server_whose_database_does_not_come_says_so_and_ends(tmp_path: Path) -> None:
    nowhere = f"postgresql://me:very-secret@127.0.0.1:{free_port()}/galley"
    env = environment(tmp_path, embedded_models=False, database_url=nowhere, startup_timeout=0.1)

    ran = run("serve", "--port", 0, env=env)

    assert ran.returncode == 2
    assert "GALLEY_STARTUP_TIMEOUT" in ran.stderr
    assert "very-secret" not in ran.stderr
    assert "Traceback" not in ran.stderr
