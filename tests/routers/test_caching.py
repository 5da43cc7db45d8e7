"""Answers that are given again, through the front door."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.caching import CacheSettings
from galley.core.catalogue import RouteSettings
from tests.serving import LiveServer, make_settings, serving

CHAT = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    settings = make_settings(
        tmp_path_factory.mktemp("caching"),
        models_dir,
        cache_bytes=10_000_000,
        routes={
            "meaning": RouteSettings(targets={CHAT: 1}, cache=CacheSettings(semantic="on")),
            "together": RouteSettings(targets={CHAT: 1}, cache=CacheSettings(shared=True)),
        },
    )
    with serving(settings) as server:
        server.until_ready()
        yield server


def ask(
    server: LiveServer, key: str | None = None, control: str = "", **body: Any
) -> httpx2.Response:
    given = {"model": CHAT, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24}
    headers = {"authorization": f"Bearer {key or server.key}"}
    if control:
        headers["cache-control"] = control
    return server.client.post("/v1/chat/completions", json=given | body, headers=headers)


def verdict(answer: httpx2.Response) -> str | None:
    assert answer.status_code == 200, answer.text
    return answer.headers.get("galley-cache")


def test_the_same_deterministic_request_is_answered_from_the_cache_for_nothing(
    server: LiveServer,
) -> None:
    key = server.key_of_new_user()

    first = ask(server, key, temperature=0)
    again = ask(server, key, temperature=0)

    assert (verdict(first), verdict(again)) == (None, "exact")
    assert again.json()["choices"] == first.json()["choices"]
    assert again.json()["usage"] == first.json()["usage"]
    row = server.row(again)
    assert (row["state"], row["cache"], row["cost"], row["attempts"]) == (
        "completed",
        "exact",
        0,
        0,
    )
    assert (row["prompt_tokens"], row["completion_tokens"]) == (0, 0)


def test_a_stream_is_replayed_piece_by_piece_and_serves_whole_answers_too(
    server: LiveServer,
) -> None:
    key = server.key_of_new_user()

    first = ask(server, key, temperature=0, stream=True)
    again = ask(server, key, temperature=0, stream=True)
    whole = ask(server, key, temperature=0)

    assert (verdict(again), verdict(whole)) == ("exact", "exact")
    ids = (first.headers["request-id"], again.headers["request-id"])
    assert again.text.count("data: ") == first.text.count("data: ") > 5
    assert again.text.replace(ids[1], "ID").count('"content":"') == first.text.count('"content":"')


def test_what_is_not_deterministic_is_cached_for_who_asks(server: LiveServer) -> None:
    key = server.key_of_new_user()

    plain = [ask(server, key, temperature=0.9) for _ in range(2)]
    asked = [ask(server, key, "max-age=60", temperature=0.9) for _ in range(2)]
    anew = ask(server, key, "no-cache, max-age=60", temperature=0.9)

    assert [*map(verdict, plain)] == [None, None]
    assert [*map(verdict, asked)] == [None, "exact"]
    assert verdict(anew) is None


def test_nobody_is_answered_with_what_another_asked(server: LiveServer) -> None:
    ada, bob = server.key_of_new_user(), server.key_of_new_user()
    ask(server, ada, temperature=0)
    ask(server, ada, model="meaning")

    assert verdict(ask(server, bob, temperature=0)) is None
    assert verdict(ask(server, bob, model="meaning")) is None


def test_a_route_may_share(server: LiveServer) -> None:
    ada, bob = server.key_of_new_user(), server.key_of_new_user()
    ask(server, ada, model="together", temperature=0)

    assert verdict(ask(server, bob, model="together", temperature=0)) == "exact"


def test_the_same_question_in_other_words_is_known_where_a_route_says_so(
    server: LiveServer,
) -> None:
    key = server.key_of_new_user()

    def of(question: str) -> str | None:
        messages = [{"role": "user", "content": question}]
        return verdict(ask(server, key, model="meaning", messages=messages))

    assert of("What is the capital of France?") is None
    assert of("Which city is the capital of France?") in ("semantic", None)
    assert of("what's the capital of France?") == "semantic"
    assert of("What is the capital of Spain?") is None
    assert of("What is not the capital of France?") is None


def test_only_if_cached_is_a_504_without_a_model_being_asked(server: LiveServer) -> None:
    refused = ask(server, server.key_of_new_user(), "only-if-cached", temperature=0)

    assert refused.status_code == 504
    assert refused.json()["error"]["code"] == "not_cached"


def test_a_hit_counts_as_a_request_and_takes_no_tokens(server: LiveServer) -> None:
    key = server.key_of_new_user(limits={"requests_per_minute": 2, "tokens_per_minute": 10_000})
    ask(server, key, temperature=0)

    hit = ask(server, key, temperature=0)
    refused = ask(server, key, temperature=0)

    assert verdict(hit) == "exact"
    assert refused.status_code == 429


def test_vectors_are_kept_for_who_asks(server: LiveServer) -> None:
    body = {"model": "galley/embeddings", "input": ["a cat", "a dog"]}
    headers = {
        "authorization": f"Bearer {server.key_of_new_user()}", "cache-control": "max-age=60",
    }  # fmt: skip

    first, again = (
        server.client.post("/v1/embeddings", json=body, headers=headers) for _ in range(2)
    )

    assert (verdict(first), verdict(again)) == (None, "exact")
    assert again.json()["data"] == first.json()["data"]
    assert again.json()["usage"] == first.json()["usage"]
    assert server.row(again)["units"] == 0
