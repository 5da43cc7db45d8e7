"""Servers behind ours that misbehave, seen by those who call us."""

import asyncio
import json
import time
from collections.abc import Generator
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.faults.test_upstream_engines import FAULTS, KEY, ORGANISATION
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import TEXT, Upstream, misbehaving

PROTOCOLS = ["openai", "anthropic"]
HELLO = {"role": "user", "content": "Hello"}
STATUSES = {
    "engine_timeout": 504,
    "engine_unavailable": 503,
    "engine_error": 502,
    "upstream_auth": 502,
    "refused_by_model": 400,
}
HALFWAY = [
    ("hang_mid_stream", "engine_timeout"),
    ("cut_mid_stream", "engine_unavailable"),
    ("end_mid_stream", "engine_unavailable"),
    ("error_event", "engine_error"),
]
NAMES = [f"{protocol}-{fault[0].__name__}" for protocol in PROTOCOLS for fault in FAULTS]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[tuple[LiveServer, Upstream]]:
    """A server with a model for each fault in each protocol."""
    folder = tmp_path_factory.mktemp("far")
    with pytest.MonkeyPatch.context() as patch, misbehaving() as far:
        patch.setenv("FAR_KEY", KEY)
        patch.setenv("FAR_ORGANISATION", ORGANISATION)
        models = {name: _model(far, name) for name in NAMES}
        far.behaviours = {
            f"{protocol}-{fault[0].__name__}": fault[0]
            for protocol in PROTOCOLS
            for fault in FAULTS
        }
        settings = make_settings(folder, folder, models=models, embedded_models=False)
        asyncio.run(_make_free(settings.database_url.get_secret_value()))
        with serving(settings) as server:
            server.until_ready()
            yield server, far


def _model(far: Upstream, name: str) -> ModelSettings:
    return ModelSettings.model_validate(
        {
            "kind": "chat",
            "source": far.url,
            "protocol": name.partition("-")[0],
            "upstream_model": name,
            "api_key_env": "FAR_KEY",
            "headers": {"x-organisation": "env:FAR_ORGANISATION"},
            "connect_timeout": 1.0,
            "first_token_timeout": 0.4,
            "idle_timeout": 0.3,
        }
    )


async def _make_free(url: str) -> None:
    async with open_database(url) as database:
        await Pricing(database.sessions).seed_free(NAMES)


def ask(server: LiveServer, model: str, **more: Any) -> httpx2.Response:
    return server.post("/v1/chat/completions", model=model, messages=[HELLO], **more)


def asked(far: Upstream, model: str) -> int:
    return sum(call.body.get("model") == model for call in far.calls)


def refuse_leaks(far: Upstream, text: str) -> None:
    for theirs in (KEY, ORGANISATION, str(far.port), "127.0.0.1", "memory", "sk-other"):
        assert theirs not in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "code"), [(fault[0].__name__, fault[2]) for fault in FAULTS])
def test_every_fault_costs_three_attempts_at_most_and_ends_in_one_row(
    world: tuple[LiveServer, Upstream], protocol: str, name: str, code: str
) -> None:
    server, far = world
    model = f"{protocol}-{name}"
    before, began = asked(far, model), time.monotonic()

    answer = ask(server, model)

    took, row = time.monotonic() - began, server.row(answer)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (STATUSES[code], code), error
    assert took < 8
    assert 1 <= asked(far, model) - before <= (1 if code == "refused_by_model" else 3)
    assert row["status"] == STATUSES[code]
    refuse_leaks(far, answer.text + json.dumps(dict(answer.headers)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "code"), HALFWAY)
def test_what_fails_halfway_ends_with_an_error_event_and_is_billed_so_far(
    world: tuple[LiveServer, Upstream], protocol: str, name: str, code: str
) -> None:
    server, far = world
    model = f"{protocol}-{name}"
    before = asked(far, model)

    answer = ask(server, model, stream=True)

    row = server.row(answer)
    *events, last = [json.loads(e.removeprefix("data: ")) for e in answer.text.split("\n\n") if e]
    said = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])
    assert last["error"]["code"] == code
    assert TEXT.startswith(said)
    assert said not in ("", TEXT)
    assert asked(far, model) - before == 1
    assert (row["state"], row["status"]) == ("failed", STATUSES[code])
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0
    refuse_leaks(far, answer.text)
