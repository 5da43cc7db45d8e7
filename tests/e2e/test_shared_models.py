"""One server's models for another, set up as docs/servers.md says."""

import asyncio
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.core.settings import Settings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.serving import LiveServer, make_settings, serving

PAGE = Path(__file__).parent.parent.parent / "docs" / "servers.md"
ASK = {"model": "galley/chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture
def second(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveServer]:
    """A server without models of its own."""
    monkeypatch.setenv("SHARED_MODEL_KEY", live_server.key)
    (example,) = (part.partition("```")[0] for part in PAGE.read_text().split("```toml\n")[1:])
    told = tomllib.loads(example.replace("http://10.0.0.5:8000", live_server.url))
    settings: Settings = make_settings(tmp_path, tmp_path, embedded_models=False, **told)
    asyncio.run(_make_free(settings))
    with serving(settings) as server:
        server.until_ready()
        yield server


async def _make_free(settings: Settings) -> None:
    async with open_database(settings.database_url.get_secret_value()) as database:
        await Pricing(database.sessions).seed_free(settings.models)


def test_a_server_answers_with_the_models_of_another_and_both_have_it_on_record(
    live_server: LiveServer, second: LiveServer
) -> None:
    before = live_server.client.get("/usage").json()["total_requests"]

    whole = second.post("/v1/chat/completions", **ASK)
    streamed = second.post("/v1/chat/completions", **ASK, stream=True)
    texts = second.post("/v1/embeddings", model="galley/embeddings", input=["a cat", "a dog"])

    assert [whole.status_code, streamed.status_code, texts.status_code] == [200, 200, 200]
    assert whole.json()["choices"][0]["message"]["content"]
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert [len(item["embedding"]) for item in texts.json()["data"]] == [384, 384]
    assert second.row(whole)["completion_tokens"] == whole.json()["usage"]["completion_tokens"]
    assert second.client.get("/usage").json()["total_requests"] == 3
    assert live_server.client.get("/usage").json()["total_requests"] == before + 3
