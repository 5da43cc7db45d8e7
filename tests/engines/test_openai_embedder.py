"""Vectors that another server makes."""

import asyncio
import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
)
from galley.engines.base import Begun, Embedded
from galley.engines.http_patience import Patience
from galley.engines.openai_embedder import MOST_DIMENSIONS, OpenAIHttpEmbedder
from tests import upstream_faults
from tests.upstream import PROMPT_TOKENS, Behaviour, Call, misbehaving, well

pytestmark = pytest.mark.anyio

PATIENCE = Patience(connect=1.0, first_token=0.4, idle=0.3)


def replying(body: Any) -> Behaviour:
    async def behaviour(call: Call) -> None:
        await call.whole(200, body)

    return behaviour


def vectors(*rows: Any) -> Behaviour:
    return replying({"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]})


async def embed(
    behaviour: Behaviour,
    inputs: Sequence[str] | Sequence[list[int]],
    patience: Patience = PATIENCE,
    **more: Any,
) -> tuple[Embedded, list[Call], OpenAIHttpEmbedder]:
    with misbehaving(behaviour) as server:
        embedder = OpenAIHttpEmbedder(
            server.url, "theirs", api_key="secret", max_tokens=64, patience=patience
        )
        try:
            return await embedder.embed(inputs, **more), server.calls, embedder
        finally:
            await embedder.aclose()


async def test_texts_become_unit_vectors_in_order() -> None:
    found, (call,), embedder = await embed(well, ["one", "two"])

    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [3 / 34**0.5, 5 / 34**0.5]], rtol=1e-6)
    assert found.tokens == PROMPT_TOKENS
    assert embedder.dimensions == 2
    assert call.path == "/v1/embeddings"
    assert call.headers["authorization"] == "Bearer secret"
    assert call.body == {
        "model": "theirs", "input": ["one", "two"], "encoding_format": "base64",
    }  # fmt: skip


async def test_token_ids_are_passed_on() -> None:
    _, (call,), _ = await embed(well, [[1, 2, 3], [4]])

    assert call.body["input"] == [[1, 2, 3], [4]]


async def test_base64_is_read_as_well_as_numbers() -> None:
    packed = b64encode(struct.pack("<2f", 3.0, 4.0)).decode()

    found, _, _ = await embed(vectors(packed, [4.0, 3.0]), ["one", "two"])

    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0.8, 0.6]], rtol=1e-6)


async def test_many_vectors_come_back_in_the_order_of_their_texts() -> None:
    async def backwards(call: Call) -> None:
        data = [{"index": i, "embedding": [1.0, float(i)]} for i in range(300)]
        await call.whole(200, {"data": data[::-1]})

    found, _, _ = await embed(backwards, [f"text {i}" for i in range(300)])

    np.testing.assert_allclose(found.vectors[:, 1] / found.vectors[:, 0], range(300), rtol=1e-5)


async def test_tokens_that_nobody_counted_are_estimated() -> None:
    found, _, _ = await embed(vectors([1.0], [1.0]), ["a" * 400, "b" * 40])

    assert 100 <= found.tokens <= 120


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"data": None},
        {"data": [{"embedding": [1.0]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": []}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [0.0]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": ["a"]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [[1.0]]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": {"a": 1}}]},
        {"data": [{"embedding": [1.0]}, {"embedding": "!!!!"}]},
        {"data": [{"embedding": [1.0]}, {"embedding": "AAAA"}]},
        {"data": [{"embedding": [1.0]}, {"embedding": "AADAfw=="}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0], "index": 0}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0], "index": 2}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0]}], "usage": {"prompt_tokens": -1}},
    ],
)
async def test_what_are_no_vectors_is_the_servers_failure(body: Any) -> None:
    with pytest.raises(EngineError) as failure:
        await embed(replying(body), ["one", "two"])

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
            await embed(behaviour, ["one"])

    assert failure.type is raised
    assert "secret" not in failure.value.message


async def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    in_time = Patience(5, 30, 30)  # the largest answer takes a busy machine a moment

    with pytest.raises(EngineError):
        await embed(upstream_faults.endless, ["one"], in_time)


async def test_what_may_be_too_long_is_not_cut_over_there() -> None:
    with pytest.raises(BadRequestError) as refused:
        await embed(well, ["short", "long " * 20], truncate=True)

    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "truncate")
    found, _, _ = await embed(well, ["short"], truncate=True)
    assert len(found.vectors) == 1


async def test_who_gives_up_has_had_all_of_it_begun() -> None:
    with misbehaving(upstream_faults.hang_before_headers) as server:
        embedder = OpenAIHttpEmbedder(server.url, "theirs", api_key=None, max_tokens=64)
        begun = Begun()
        task = asyncio.create_task(embedder.embed(["one", "two"], begun=begun))
        while not server.calls:  # noqa: ASYNC110 - it is on another thread
            await asyncio.sleep(0.005)

        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await embedder.aclose()

    assert (begun.items, begun.tokens) == (2, 2)
    assert embedder.dimensions == MOST_DIMENSIONS
