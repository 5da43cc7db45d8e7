"""Documents in order of relevance, by way of another server."""

import json
from collections.abc import Generator
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from galley.schemas.rerank import RerankReply
from tests import upstream_faults
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import PROMPT_TOKENS, Upstream, misbehaving

PRICE = {"prompt": 150_000, "unit": 2_000}
KEY = "sk-far-and-secret"
FAULTS = ("cut_before_headers", "internal_error", "bad_key", "wrong_type", "refusal")
NAMES = ("far", *FAULTS)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[tuple[LiveServer, Upstream]]:
    """A server with a model that ranks, one for each fault, and one that chats."""
    folder = tmp_path_factory.mktemp("rerank")
    with pytest.MonkeyPatch.context() as patch, misbehaving() as far:
        patch.setenv("FAR_KEY", KEY)
        far.behaviours = {name: getattr(upstream_faults, name) for name in FAULTS}
        models = {name: model(far, default=name == "far") for name in NAMES}
        models["chat"] = model(far, kind="chat")
        settings = make_settings(folder, folder, models=models, embedded_models=False)
        with serving(settings) as server:
            server.until_ready()
            for name in (*NAMES, "chat"):
                server.client.put(f"/v1/admin/prices/{name}", json=PRICE).raise_for_status()
            yield server, far


@pytest.fixture
def server(world: tuple[LiveServer, Upstream]) -> LiveServer:
    return world[0]


def model(far: Upstream, **more: Any) -> ModelSettings:
    said = {"kind": "rerank", "source": far.url, "api_key_env": "FAR_KEY"}
    return ModelSettings.model_validate(said | more)


def rerank(server: LiveServer, **body: Any) -> httpx2.Response:
    asked = {"model": "far", "query": "which?", "documents": ["one", {"text": "two"}, "three"]}
    return server.post("/v1/rerank", **asked | body)


def test_the_best_document_comes_first(world: tuple[LiveServer, Upstream]) -> None:
    server, far = world

    answer = rerank(server)

    assert answer.status_code == 200, answer.text
    RerankReply.model_validate(answer.json())
    assert answer.json() == {
        "model": "far",
        "results": [
            {"index": 2, "relevance_score": 0.5},
            {"index": 1, "relevance_score": -0.5},
            {"index": 0, "relevance_score": -1.5},
        ],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS},
    }
    assert far.calls[-1].body == {
        "model": "far", "query": "which?", "documents": ["one", "two", "three"], "top_n": 3,
    }  # fmt: skip


def test_the_best_alone_come_with_their_texts_where_that_is_asked(server: LiveServer) -> None:
    answer = rerank(server, model="galley/rerank", top_n=2, return_documents=True)

    assert answer.json()["results"] == [
        {"index": 2, "relevance_score": 0.5, "document": {"text": "three"}},
        {"index": 1, "relevance_score": -0.5, "document": {"text": "two"}},
    ]


def test_more_than_there_are_is_all_of_them(server: LiveServer) -> None:
    answer = rerank(server, top_n=1000)

    assert len(answer.json()["results"]) == 3


def test_documents_and_tokens_are_booked_at_their_price(server: LiveServer) -> None:
    row = server.row(rerank(server))

    assert (row["endpoint"], row["served_model"], row["state"]) == ("rerank", "far", "completed")
    assert (row["units"], row["prompt_tokens"]) == (3, PROMPT_TOKENS)
    assert row["cost"] == 3 * PRICE["unit"] + round(PROMPT_TOKENS * PRICE["prompt"] / 10**6)


def test_a_limit_of_texts_holds_for_documents(server: LiveServer) -> None:
    key = server.key_of_new_user(limits={"texts_per_minute": 5})
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "far", "query": "which?", "documents": ["one", "two", "three"]}

    answers = [server.client.post("/v1/rerank", json=body, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert "5 texts" in answers[1].json()["error"]["message"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 1001}, "documents"),
        ({"documents": "one"}, "documents"),
        ({"documents": ["one", ""]}, "documents[1]"),
        ({"documents": [{"title": "one"}]}, "documents[0]"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": 1001}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
    ids=str,
)
def test_what_cannot_be_ranked_is_refused_by_name(
    server: LiveServer, wrong: dict[str, Any], param: str
) -> None:
    answer = rerank(server, **wrong)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(("path", "name"), [("rerank", "chat"), ("embeddings", "far")])
def test_a_model_that_does_something_else_is_refused(
    server: LiveServer, path: str, name: str
) -> None:
    asked = {"query": "which?", "documents": ["one"]} if path == "rerank" else {"input": "one"}

    answer = server.post(f"/v1/{path}", model=name, **asked)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_model_kind")


def test_a_key_without_the_scope_of_embeddings_ranks_nothing(server: LiveServer) -> None:
    key = server.key_of_new_user(tier=server.new_tier(scopes=["chat"]))

    answer = server.client.post("/v1/rerank", json={}, headers={"authorization": f"Bearer {key}"})

    assert answer.status_code == 403
    assert "embeddings" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "status", "code", "attempts"),
    [
        ("cut_before_headers", 503, "engine_unavailable", 3),
        ("internal_error", 502, "engine_error", 3),
        ("bad_key", 502, "upstream_auth", 3),
        ("wrong_type", 502, "engine_error", 3),
        ("refusal", 400, "refused_by_model", 1),
    ],
)
def test_every_fault_ends_in_three_attempts_at_most_and_one_row_that_costs_nothing(
    world: tuple[LiveServer, Upstream], name: str, status: int, code: str, attempts: int
) -> None:
    server, far = world
    before = len(far.calls)

    answer = rerank(server, model=name)

    row = server.row(answer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert 1 <= len(far.calls) - before <= attempts
    assert (row["status"], row["units"], row["prompt_tokens"], row["cost"]) == (status, 0, 0, 0)
    for theirs in (KEY, str(far.port), "127.0.0.1"):
        assert theirs not in answer.text + json.dumps(dict(answer.headers))


def test_it_is_in_the_list_of_models(server: LiveServer) -> None:
    assert server.client.get("/v1/models/far").json()["kind"] == "rerank"
