"""Models that another server runs."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from galley.core.catalogue import ModelSettings
from galley.core.settings import Settings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.loopback import events, scripted_server
from tests.serving import make_settings, serving

HELLO = {"role": "user", "content": "Hello"}


def far(url: str, folder: Path, **more: Any) -> Settings:
    model = ModelSettings(kind="chat", source=f"{url}/v1", **more)
    settings = make_settings(folder, folder, models={"far": model}, embedded_models=False)
    asyncio.run(_make_free(settings))
    return settings


async def _make_free(settings: Settings) -> None:
    async with open_database(settings.database_url.get_secret_value()) as database:
        await Pricing(database.sessions).seed_free(["far"])


def streamed(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
    return events(json.dumps({"choices": [choice]}), "[DONE]")


@pytest.mark.parametrize(
    ("asked", "sent"), [({}, 0.3), ({"temperature": None}, 0.3), ({"temperature": 0.0}, 0.0)]
)
def test_a_request_without_a_temperature_gets_the_models_own(
    tmp_path: Path, asked: dict[str, Any], sent: float
) -> None:
    with (
        scripted_server(streamed("hi")) as upstream,
        serving(far(upstream.base_url, tmp_path, temperature=0.3)) as server,
    ):
        server.until_ready()
        answer = server.post("/v1/chat/completions", model="far", messages=[HELLO], **asked)

    assert answer.status_code == 200, answer.text
    assert json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])["temperature"] == sent


def test_a_server_that_is_not_there_is_named_by_every_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

    with serving(far(url, tmp_path)) as server:
        while (ready := server.client.get("/health/ready")).json()["parts"][
            "model:far"
        ] == "loading":
            pass
        listed = server.client.get("/v1/models/far").json()
        refused = server.post("/v1/chat/completions", model="far", messages=[HELLO])

    assert ready.status_code == 503
    assert ready.json()["parts"]["model:far"] == f"nothing answers at {url}"
    assert listed["status"] == "not answering"
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["message"] == f"Nothing answers at {url}."
