"""Models elsewhere that break off before they have said anything, and who steps in for them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings, RouteSettings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import TEXT, Call, misbehaving

PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/responses"]


async def greet_and_cut(call: Call) -> None:
    """Begin an answer as OpenAI does, with its role alone, and break off."""
    greeting = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    await call.begin()
    await call.events(json.dumps(greeting), end=False)
    call.writer.transport.abort()


async def make_free(url: str, *models: str) -> None:
    async with open_database(url) as database:
        await Pricing(database.sessions).seed_free(models)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`weak` breaks off; on the route `both`, `strong` steps in for it."""
    folder: Path = tmp_path_factory.mktemp("server")
    with misbehaving() as upstream:
        upstream.behaviours["weak"] = greet_and_cut
        far = ModelSettings(kind="chat", source=upstream.url)
        settings = make_settings(
            folder,
            folder,
            models={"weak": far, "strong": far},
            routes={"both": RouteSettings(targets={"weak": 1}, fallbacks=("strong",))},
            embedded_models=False,
        )
        asyncio.run(make_free(settings.database_url.get_secret_value(), "weak", "strong"))
        with serving(settings) as server:
            server.until_ready()
            yield server


def streamed(server: LiveServer, path: str, model: str) -> httpx2.Response:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
    if path == "/v1/responses":
        body = {"input": "Hi", "store": False}
    return server.post(path, model=model, stream=True, **body)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_is_in_the_name_of_the_model_that_answers(server: LiveServer, path: str) -> None:
    answer = streamed(server, path, "both")

    assert answer.status_code == 200, answer.text
    assert '"model":"strong"' in answer.text
    assert '"model":"weak"' not in answer.text
    said = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert TEXT in "".join(map(text_of, said))


def text_of(event: dict[str, Any]) -> str:
    delta = event.get("delta") or (event.get("choices") or [{}])[0].get("delta") or ""
    return delta if isinstance(delta, str) else delta.get("content") or delta.get("text") or ""


@pytest.mark.parametrize("path", PATHS)
def test_a_greeting_is_no_beginning_of_a_stream(server: LiveServer, path: str) -> None:
    refused = streamed(server, path, "weak")

    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/json"
    assert server.row(refused)["state"] == "refused"
