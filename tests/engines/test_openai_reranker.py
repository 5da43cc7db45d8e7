"""Documents that another server puts in order."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
)
from galley.engines.base import Begun, Ranked
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.openai_reranker import OpenAIHttpReranker
from tests import upstream_faults
from tests.llama import SECRET, raw_reranker
from tests.upstream import PROMPT_TOKENS, Behaviour, Call, misbehaving, well

pytestmark = pytest.mark.anyio

PATIENCE = Patience(connect=1.0, first_token=0.4, idle=0.3)
DOCUMENTS = ["one", "two", "three"]


def replying(body: Any) -> Behaviour:
    async def behaviour(call: Call) -> None:
        await call.whole(200, body)

    return behaviour


def scored(*scores: Any, **more: Any) -> Behaviour:
    results = [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]
    return replying({"results": results, **more})


async def rerank(
    behaviour: Behaviour, *, top_n: int = 3, patience: Patience = PATIENCE
) -> tuple[Ranked, list[Call]]:
    with misbehaving(behaviour) as server:
        engine = OpenAIHttpReranker(
            server.url, "theirs", api_key="secret", max_tokens=64, patience=patience
        )
        try:
            return await engine.rerank("which?", DOCUMENTS, top_n=top_n), server.calls
        finally:
            await engine.aclose()


async def test_documents_come_back_in_order_of_their_scores() -> None:
    ranked, (call,) = await rerank(well)

    assert ranked == Ranked([(2, 0.5), (1, -0.5), (0, -1.5)], PROMPT_TOKENS)
    assert call.path == "/v1/rerank"
    assert call.headers["authorization"] == "Bearer secret"
    assert call.body == {
        "model": "theirs", "query": "which?", "documents": DOCUMENTS, "top_n": 3,
    }  # fmt: skip


async def test_what_a_server_sends_beyond_the_best_is_left_out() -> None:
    ranked, (call,) = await rerank(scored(1, 3, 2), top_n=2)

    assert ranked.scores == [(1, 3.0), (2, 2.0)]
    assert call.body["top_n"] == 2


async def test_a_server_may_send_the_best_alone() -> None:
    best = {"results": [{"index": 2, "relevance_score": 0.9, "document": {"text": "three"}}]}

    ranked, _ = await rerank(replying(best), top_n=1)

    assert ranked.scores == [(2, 0.9)]


async def test_equal_documents_stay_in_their_order() -> None:
    ranked, _ = await rerank(scored(0.5, 1, 0.5))

    assert [place for place, _ in ranked.scores] == [1, 0, 2]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "total_tokens": 8}, 7),
        ({"total_tokens": 8}, 8),
        ({}, 3 + 3 + 3),
        (None, 3 + 3 + 3),
    ],
)
async def test_tokens_are_the_servers_or_estimated(usage: Any, tokens: int) -> None:
    ranked, _ = await rerank(scored(1, 2, 3, usage=usage))

    assert ranked.tokens == tokens


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"results": None},
        {"results": [1, 2, 3]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1)]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1, 1)]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1, 3)]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1, -1)]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1, None)]},
        {"results": [{"index": place, "relevance_score": 1} for place in (0, 1, True)]},
        {"results": [{"index": place, "relevance_score": "1"} for place in (0, 1, 2)]},
        {"results": [{"index": place, "relevance_score": None} for place in (0, 1, 2)]},
        {"results": [{"index": place} for place in (0, 1, 2)]},
        '{"results": [{"index": 0, "relevance_score": NaN}]}',
        '{"results": [{"index": 0, "relevance_score": 1e999}]}',
    ],
)
async def test_what_are_no_ranks_is_the_servers_failure(body: Any) -> None:
    with pytest.raises(EngineError) as failure:
        await rerank(replying(body))

    assert failure.value.code == "engine_error"


@pytest.mark.parametrize(
    ("behaviour", "raised"),
    [
        (upstream_faults.hang_before_headers, EngineTimeoutError),
        (upstream_faults.drip, EngineTimeoutError),
        (upstream_faults.cut_before_headers, OverloadedError),
        (upstream_faults.truncated_chunk, OverloadedError),
        (upstream_faults.busy, OverloadedError),
        (upstream_faults.internal_error, EngineError),
        (upstream_faults.wrong_type, EngineError),
        (upstream_faults.bad_key, EngineError),
        (upstream_faults.no_such_model, EngineError),
        (upstream_faults.redirect, EngineError),
        (upstream_faults.refusal, BadRequestError),
    ],
    ids=lambda given: given.__name__,
)
async def test_every_fault_ends_in_time_with_its_own_error(
    behaviour: Behaviour, raised: type[GalleyError]
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(raised) as failure:
            await rerank(behaviour)

    assert failure.type is raised
    assert "secret" not in failure.value.message


async def test_an_answer_that_has_no_end_is_not_read_to_it() -> None:
    async with asyncio.timeout(30):
        with pytest.raises(EngineError) as failure:
            await rerank(upstream_faults.endless, patience=ENDLESS)

    assert failure.value.code == "engine_error"


async def test_who_gives_up_has_had_all_of_it_begun() -> None:
    with misbehaving(upstream_faults.hang_before_headers) as server:
        engine = OpenAIHttpReranker(server.url, "theirs", api_key=None, max_tokens=64)
        begun = Begun()
        task = asyncio.create_task(engine.rerank("which?", DOCUMENTS, top_n=3, begun=begun))
        while not server.calls:  # noqa: ASYNC110 - it is on another thread
            await asyncio.sleep(0.005)

        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.aclose()

    assert (begun.items, begun.tokens) == (3, 9)


async def test_llama_cpps_own_server_is_understood(models_dir: Path) -> None:
    with raw_reranker(models_dir) as url:
        engine = OpenAIHttpReranker(url, "m", api_key=SECRET, max_tokens=512)
        stranger = OpenAIHttpReranker(url, "m", api_key="another", max_tokens=512)

        every = await engine.rerank("which?", DOCUMENTS, top_n=3)
        best = await engine.rerank("which?", DOCUMENTS, top_n=2)
        with pytest.raises(EngineError) as locked_out:
            await stranger.rerank("which?", DOCUMENTS, top_n=3)
        with pytest.raises(BadRequestError) as too_long:
            await engine.rerank("which?", ["word " * 1000], top_n=1)
        await engine.aclose()
        await stranger.aclose()

    scores = [score for _, score in every.scores]
    assert sorted(place for place, _ in every.scores) == [0, 1, 2]
    assert scores == sorted(scores, reverse=True)
    assert [place for place, _ in best.scores] == [place for place, _ in every.scores[:2]]
    assert every.tokens > 0
    assert locked_out.value.code == "upstream_auth"
    assert too_long.value.code == "context_length_exceeded"
