"""The log of `galley serve`, as whoever collects it reads it."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest

from galley.core.security import make_key
from tests.cli.program import Serving, environment, serve

SECRET = "a-word-of-the-prompt"
PATIENCE_S = 20.0


class Place:
    """A server that logs, and who uses it."""

    def __init__(self, serving: Serving, client: httpx2.Client) -> None:
        self.serving = serving
        self.client = client

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines that have these fields."""
        read = map(orjson.loads, self.serving.errors.read_bytes().splitlines())
        return [line for line in read if fields.items() <= line.items()]

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for a line."""
        end = time.monotonic() + PATIENCE_S
        while not (found := self.lines(event=event, **fields)):
            assert time.monotonic() < end, self.serving.errors.read_text()
            time.sleep(0.05)
        return found[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """It has one model, whose server is not there."""
    folder = tmp_path_factory.mktemp("logs")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    config = folder / "galley.toml"
    config.write_text(f'[models.far]\nkind = "chat"\nsource = "{nobody}"\n')
    key = make_key()
    given = environment(
        folder, config=config, bootstrap_key=key, embedded_models=False, log_format="json"
    )
    headers = {"authorization": f"Bearer {key}"}
    with (
        serve(env=given, folder=folder) as serving,
        httpx2.Client(base_url=serving.base_url, headers=headers, timeout=30) as client,
    ):
        client.put("/v1/admin/prices/far", json={"completion": 0}).raise_for_status()
        yield Place(serving, client)


def test_a_request_has_a_line_at_its_start_and_at_its_end(place: Place) -> None:
    answer = place.client.get("/v1/models")
    own = answer.headers["request-id"]

    ended = place.until("request_finished", request_id=own)

    assert ended["path"] == "/v1/models"
    assert (ended["method"], ended["status"], ended["level"]) == ("GET", 200, "info")
    assert ended["ms"] > 0
    (started,) = place.lines(event="request_started", request_id=own)
    assert started["timestamp"] <= ended["timestamp"]


def test_what_a_models_server_does_wrong_names_the_request(place: Place) -> None:
    body = {"model": "far", "messages": [{"role": "user", "content": SECRET}]}

    answer = place.client.post("/v1/chat/completions", json=body)

    assert answer.status_code == 503, answer.text
    line = place.until("engine_unreachable", request_id=answer.headers["request-id"])
    assert line["model"] == "far"


def test_a_jobs_lines_name_the_job_and_the_request_that_made_it(place: Place) -> None:
    answer = place.client.post("/process", json={})
    job_id = answer.json()["job_id"]

    place.until("job_ended", job_id=job_id)

    events = {
        line["event"]
        for line in place.lines(job_id=job_id, request_id=answer.headers["request-id"])
    }
    assert {"job_started", "job_ended"} <= events


def test_no_line_has_a_prompt_or_a_key_and_probes_have_none(place: Place) -> None:
    place.client.get("/metrics")
    place.client.get("/health/ready")
    own = place.client.get("/v1/models").headers["request-id"]
    place.until("request_finished", request_id=own)

    text = place.serving.errors.read_text()

    key = place.client.headers["authorization"].removeprefix("Bearer ")
    assert [word for word in (SECRET, key, "/metrics", "/health") if word in text] == []
