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
from tests.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, TEXT, misbehaving
from tests.upstream_faults import bad_key

HELLO = {"role": "user", "content": "Hello"}


def far(url: str, folder: Path, **more: Any) -> Settings:
    model = ModelSettings.model_validate({"kind": "chat", "source": f"{url}/v1"} | more)
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


def test_fields_are_passed_on_to_a_server_that_knows_them(tmp_path: Path) -> None:
    with (
        scripted_server(streamed("hi")) as upstream,
        serving(far(upstream.base_url, tmp_path, pass_fields=["reasoning_effort"])) as server,
    ):
        server.until_ready()
        asked = {"reasoning_effort": "low", "verbosity": "high", "user": "u-1"}
        answer = server.post("/v1/chat/completions", model="far", messages=[HELLO], **asked)
        receipt = server.client.get(f"/v1/requests/{answer.headers['request-id']}").json()

    sent = json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])
    assert sent["reasoning_effort"] == "low"
    assert sent.keys().isdisjoint({"verbosity", "user"})
    assert receipt["ignored_fields"] == ["user", "verbosity"]


def test_what_cannot_be_passed_on_is_refused_by_name(tmp_path: Path) -> None:
    with (
        scripted_server(streamed("hi")) as upstream,
        serving(far(upstream.base_url, tmp_path, pass_fields=["metadata"])) as server,
    ):
        server.until_ready()
        asked = {"metadata": {"a": 10**40}, "temperature": 0}
        refused = server.post("/v1/chat/completions", model="far", messages=[HELLO], **asked)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "metadata"
    assert upstream.requests == []


def test_what_a_translation_leaves_out_is_named_though_it_could_be_passed_on(
    tmp_path: Path,
) -> None:
    with (
        scripted_server(streamed("hi")) as upstream,
        serving(far(upstream.base_url, tmp_path, pass_fields=["metadata"])) as server,
    ):
        server.until_ready()
        asked = {"metadata": {"user_id": "u"}, "max_tokens": 8}
        answer = server.post("/v1/messages", model="far", messages=[HELLO], **asked)
        receipt = server.client.get(f"/v1/requests/{answer.headers['request-id']}").json()

    assert answer.status_code == 200, answer.text
    assert receipt["ignored_fields"] == ["metadata"]


def test_an_answer_with_one_field_passed_on_is_not_that_with_another(tmp_path: Path) -> None:
    with scripted_server(streamed("quick"), streamed("thorough")) as upstream:
        settings = far(upstream.base_url, tmp_path, pass_fields=["reasoning_effort"])
        remembering = settings.model_copy(update={"cache_bytes": 1_000_000})
        with serving(remembering) as server:
            server.until_ready()
            said = [
                server.post(
                    "/v1/chat/completions",
                    model="far",
                    messages=[HELLO],
                    temperature=0,
                    reasoning_effort=effort,
                ).json()["choices"][0]["message"]["content"]
                for effort in ("low", "high", "low")
            ]

    assert said == ["quick", "thorough", "quick"]
    assert len(upstream.requests) == 2


def test_a_model_that_passes_on_what_nobody_can_send_does_not_load(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(far("http://127.0.0.1:9", tmp_path, pass_fields=["effort"])) as server:
        while (
            part := server.client.get("/health/ready").json()["parts"]["model:far"]
        ) == "loading":
            pass
        refused = server.post("/v1/chat/completions", model="far", messages=[HELLO])

    assert part == "failed"
    assert refused.status_code == 503
    assert "The server's log says why" in refused.json()["error"]["message"]
    assert "pass_fields names effort" in capfd.readouterr().out


def test_that_a_server_is_not_there_is_said_without_its_address(tmp_path: Path) -> None:
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
    assert ready.json()["parts"]["model:far"] == "its server does not answer"
    assert listed["status"] == "not answering"
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "engine_unavailable"
    assert url not in ready.text + refused.text


def test_a_model_behind_anthropics_api_answers_in_openais_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-far-and-secret")
    with misbehaving() as upstream:
        settings = far(
            upstream.url.removesuffix("/v1"),
            tmp_path,
            protocol="anthropic",
            api_key_env="FAR_KEY",
            headers={"x-team": "galley"},
            upstream_model="theirs",
        )
        with serving(settings) as server:
            server.until_ready()
            answer = server.post("/v1/chat/completions", model="far", messages=[HELLO])
            row = server.row(answer)

    (call,) = upstream.calls
    assert call.body["model"] == "theirs"
    assert (call.headers["x-api-key"], call.headers["x-team"]) == ("sk-far-and-secret", "galley")
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert (row["prompt_tokens"], row["completion_tokens"]) == (PROMPT_TOKENS, COMPLETION_TOKENS)


def test_vectors_may_come_from_another_server(tmp_path: Path) -> None:
    with misbehaving() as upstream:
        settings = far(upstream.url.removesuffix("/v1"), tmp_path, kind="embeddings")
        with serving(settings) as server:
            server.until_ready()
            too_many = server.post("/v1/embeddings", model="far", input="Hi", dimensions=3)
            found = server.post("/v1/embeddings", model="far", input=["Hi"])
            row = server.row(found)

    assert too_many.status_code == 400
    assert too_many.json()["error"]["code"] == "invalid_dimensions"
    assert found.json()["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
    assert row["prompt_tokens"] == PROMPT_TOKENS


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_refuses_our_key_is_named_to_nobody(tmp_path: Path, stream: bool) -> None:
    with misbehaving(bad_key) as upstream:
        with serving(far(upstream.url.removesuffix("/v1"), tmp_path)) as server:
            server.until_ready()
            answer = server.post(
                "/v1/chat/completions", model="far", messages=[HELLO], stream=stream
            )

        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_auth"
        assert str(upstream.port) not in answer.text
