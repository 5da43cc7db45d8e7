"""Answers found again: the very pieces, and nobody else's."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from galley.core.caching import CacheControl, CacheSettings
from galley.core.caller import Caller
from galley.core.errors import EngineTimeoutError
from galley.engines.onnx_embedder import OnnxEmbedder
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, ToolCall, Usage
from galley.services.caching import AnswerCache, Hit, Lookup
from galley.stores import cache_redis
from galley.stores.cache import Cache
from galley.stores.cache_memory import MemoryCache
from galley.stores.cache_redis import RedisCache
from tests.redis_server import RedisServer
from tests.services.minilm import minilm, open_minilm

__all__ = ["minilm"]

pytestmark = pytest.mark.anyio

ANN, BOB = Caller("ann"), Caller("bob")
NOTHING = CacheControl()
EXACT = CacheSettings()
SEMANTIC = CacheSettings(semantic="on")
SHADOW = CacheSettings(semantic="shadow")
QUESTION = "How do I reset a router?"
SAME_QUESTION = "What is the best way to reset a router?"
OTHER_QUESTION = "How do I reset a modem?"

ANSWER = [
    Delta(text="Press ", tokens=1, logprobs=[{"token": "Press ", "logprob": -0.5}]),
    Delta(text="the\u2019 button", tokens=2),
    Delta(reasoning="hm", tokens=1),
    Delta(tool_calls=[ToolCall(0, "call-1", "press", '{"a":'), ToolCall(1, "call-2", "wait")]),
    Delta(tool_calls=[ToolCall(0, arguments="1}")], tokens=3),
    Delta(finish_reason="tool_calls", stop_sequence="\n"),
    Delta(usage=Usage(9, 7, 2)),
]


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Cache]:
    """Each kind in turn, with time for a busy machine."""
    monkeypatch.setattr(cache_redis, "TIMEOUT_S", 5.0)
    if request.param == "memory":
        yield MemoryCache(10_000_000)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with server.client() as client:
        cache = RedisCache(client)
        yield cache
        await cache.aclose()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(store: Cache, minilm: OnnxEmbedder, clock: Clock) -> AnswerCache:
    return AnswerCache(store, lambda: minilm, ttl_s=600, clock=clock)


def chat(text: str = QUESTION, **fields: Any) -> ChatRequest:
    """A request whose answer is the same every time, unless `fields` say otherwise."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0}
    return ChatRequest.model_validate(body | fields)


def looking(
    cache: AnswerCache,
    request: ChatRequest | CompletionRequest,
    *,
    caller: Caller = ANN,
    model: str = "m",
    control: CacheControl = NOTHING,
    settings: CacheSettings = EXACT,
) -> Lookup:
    lookup = cache.look(caller, model, request, control, settings)
    assert lookup is not None
    return lookup


async def give(
    cache: AnswerCache,
    request: ChatRequest | CompletionRequest,
    answer: list[Delta] = ANSWER,
    *,
    served: str = "m",
    **how: Any,
) -> Hit | None:
    """Answer `request`, from memory or anew; return what was found."""
    lookup = looking(cache, request, **how)
    found = await lookup.find()
    if found is None:
        lookup.add(answer)
        await lookup.keep(served)
    return found


async def test_a_hit_is_the_very_pieces_of_the_answer(cache: AnswerCache):
    await give(cache, chat())

    found = await give(cache, chat())

    assert found is not None
    assert (found.kind, found.deltas) == ("exact", ANSWER)
    assert cache.counts == {"miss": 1, "exact": 1}


@pytest.mark.parametrize(
    "settings", [EXACT, SEMANTIC, CacheSettings(exact=False, semantic="on")], ids=str
)
async def test_nobody_finds_the_answers_of_another(cache: AnswerCache, settings: CacheSettings):
    await give(cache, chat(), caller=ANN, settings=settings)

    for text in (QUESTION, SAME_QUESTION):
        assert await looking(cache, chat(text), caller=BOB, settings=settings).find() is None
        assert await looking(cache, chat(text), caller=ANN, settings=settings).find() or (
            settings == EXACT and text == SAME_QUESTION
        )


@pytest.mark.parametrize("settings", [EXACT, SEMANTIC], ids=str)
async def test_a_route_may_share_its_answers(cache: AnswerCache, settings: CacheSettings):
    shared = settings.model_copy(update={"shared": True})
    await give(cache, chat(), caller=ANN, settings=shared)

    assert await give(cache, chat(), caller=BOB, settings=shared) is not None
    assert await give(cache, chat(), caller=BOB, settings=settings) is None


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "other",
    [
        chat(OTHER_QUESTION),
        chat(messages=[SYSTEM, {"role": "user", "content": QUESTION}]),
        chat(messages=[{"role": "user", "content": QUESTION, "name": "ann"}]),
        chat(temperature=0.1, seed=1),
        chat(seed=1),
        chat(top_p=0.5),
        chat(top_k=5),
        chat(max_tokens=5),
        chat(n=2),
        chat(stop="."),
        chat(logprobs=True),
        chat(logprobs=True, top_logprobs=2),
        chat(frequency_penalty=1),
        chat(presence_penalty=1),
        chat(logit_bias={"1": 5}),
        chat(tools=[TOOL]),
        chat(tools=[TOOL], tool_choice="required"),
        chat(response_format=FORMAT),
        CompletionRequest(model="m", prompt=QUESTION, temperature=0),
    ],
)
@pytest.mark.parametrize("settings", [EXACT, SEMANTIC], ids=str)
async def test_what_changes_the_answer_is_another_request(
    minilm: OnnxEmbedder, other: ChatRequest | CompletionRequest, settings: CacheSettings
):
    cache = AnswerCache(MemoryCache(10_000_000), lambda: minilm, ttl_s=600)
    await give(cache, chat(), settings=settings)

    assert await give(cache, other, settings=settings) is None


@pytest.mark.parametrize(
    "same",
    [
        chat(stream=True, stream_options={"include_usage": True}),
        chat(model="an alias"),
        chat(n=1, logprobs=False),
        chat(user="somebody", metadata={"a": "b"}),
        chat(max_tokens=None),
    ],
)
async def test_how_it_is_asked_and_sent_is_no_matter(cache: AnswerCache, same: ChatRequest):
    await give(cache, chat())

    assert await give(cache, same) is not None


async def test_both_names_of_the_limit_are_one(cache: AnswerCache):
    await give(cache, chat(max_tokens=9))

    assert await give(cache, chat(max_completion_tokens=9)) is not None


async def test_another_model_has_other_answers(cache: AnswerCache):
    await give(cache, chat())

    assert await give(cache, chat(), model="other") is None


async def test_what_a_fallback_answered_is_not_kept_as_the_models_own(cache: AnswerCache):
    await give(cache, chat(), served="fallback")

    assert await give(cache, chat()) is None


@pytest.mark.parametrize(
    ("fields", "control", "settings", "looked"),
    [
        ({}, NOTHING, EXACT, True),
        ({"temperature": 1}, NOTHING, EXACT, False),
        ({"temperature": None}, NOTHING, EXACT, False),
        ({"temperature": 1, "seed": 7}, NOTHING, EXACT, True),
        ({"temperature": 1}, CacheControl(max_age_s=60), EXACT, True),
        ({}, CacheControl(max_age_s=60), CacheSettings(exact=False), False),
        ({"temperature": 1}, NOTHING, SHADOW, True),
        ({"temperature": 1}, NOTHING, SEMANTIC, True),
        ({"temperature": 1}, CacheControl(only_if_cached=True), EXACT, True),
    ],
)
async def test_only_what_would_be_the_same_again_or_was_asked_for_is_looked_for(
    minilm: OnnxEmbedder,
    fields: dict[str, Any],
    control: CacheControl,
    settings: CacheSettings,
    looked: bool,
):
    cache = AnswerCache(MemoryCache(1_000), lambda: minilm, ttl_s=600)

    assert (cache.look(ANN, "m", chat(**fields), control, settings) is not None) == looked


async def test_an_answer_older_than_the_client_wants_is_made_anew(cache: AnswerCache, clock: Clock):
    await give(cache, chat())
    clock.now += 30

    fresh = await looking(cache, chat(), control=CacheControl(max_age_s=30)).find()
    stale = await looking(cache, chat(), control=CacheControl(max_age_s=29)).find()

    assert fresh is not None
    assert fresh.age_s == 30
    assert stale is None


async def test_no_cache_makes_it_anew_and_keeps_that(cache: AnswerCache):
    await give(cache, chat())
    newer = [Delta(text="newer", finish_reason="stop")]

    anew = await give(cache, chat(), newer, control=CacheControl(no_cache=True))
    found = await give(cache, chat())

    assert anew is None
    assert found is not None
    assert found.deltas == newer


async def test_no_store_keeps_nothing_and_may_be_answered_from_memory(cache: AnswerCache):
    control = CacheControl(no_store=True)
    await give(cache, chat(), control=control)
    missed = await give(cache, chat())

    found = await give(cache, chat(), control=control)

    assert missed is None
    assert found is not None


@pytest.mark.parametrize("fields", [{}, {"temperature": 1}])
async def test_only_if_cached_refuses_what_is_not(cache: AnswerCache, fields: dict[str, Any]):
    lookup = looking(cache, chat(**fields), control=CacheControl(only_if_cached=True))

    with pytest.raises(EngineTimeoutError) as refused:
        await lookup.find()

    assert refused.value.code == "not_cached"


async def test_only_if_cached_is_answered_from_memory(cache: AnswerCache):
    await give(cache, chat())

    lookup = looking(cache, chat(), control=CacheControl(only_if_cached=True))

    assert await lookup.find() is not None


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, []),
        ({}, [Delta(text="broken off", tokens=2)]),
        ({"n": 2}, [Delta(text="one", finish_reason="stop"), Delta(index=1, text="half")]),
        ({}, [Delta(text="x" * 1_100_000), Delta(finish_reason="stop")]),
        ({}, [Delta(text=",") for _ in range(20_000)] + [Delta(finish_reason="stop")]),
    ],
    ids=["nothing", "broken off", "one of two", "too long", "too many pieces"],
)
async def test_what_is_not_whole_or_too_large_is_not_kept(
    cache: AnswerCache, fields: dict[str, Any], answer: list[Delta]
):
    await give(cache, chat(**fields), answer)

    assert await give(cache, chat(**fields)) is None


async def test_all_answers_of_a_request_come_again_in_the_order_they_came(cache: AnswerCache):
    answer = [
        Delta(index=1, text="b"),
        Delta(index=0, text="a", finish_reason="stop"),
        Delta(index=1, finish_reason="length"),
    ]
    await give(cache, chat(n=2), answer)

    found = await give(cache, chat(n=2))

    assert found is not None
    assert found.deltas == answer


async def test_a_value_of_another_version_is_a_miss(minilm: OnnxEmbedder):
    class Foreign(MemoryCache):
        """Somebody else wrote into it."""

        async def get(self, key: str) -> bytes | None:
            return b'{"at": 1, "text": "", "deltas": [{"unheard_of": 1}]}'

    cache = AnswerCache(Foreign(1_000), lambda: minilm, ttl_s=600)

    assert await give(cache, chat()) is None


async def test_the_same_question_in_other_words_is_a_hit_where_the_route_says_so(
    cache: AnswerCache,
):
    await give(cache, chat(), settings=SEMANTIC)

    found = await give(cache, chat(SAME_QUESTION), settings=SEMANTIC)

    assert found is not None
    assert (found.kind, found.deltas) == ("semantic", ANSWER)
    assert await give(cache, chat(OTHER_QUESTION), settings=SEMANTIC) is None


async def test_without_the_routes_word_only_the_same_words_are_a_hit(cache: AnswerCache):
    await give(cache, chat())

    assert await give(cache, chat(SAME_QUESTION)) is None


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("assistant", "{}"),
        ("user", "{}\n{}"),
        ("user", "`{}`"),
        ("user", "{} " + "Please. " * 40),
    ],
    ids=["not the user's", "lines", "code", "long"],
)
async def test_what_is_no_plain_question_is_no_semantic_hit(
    cache: AnswerCache, role: str, said: str
):
    before, after = (
        chat(messages=[{"role": role, "content": said.replace("{}", text)}])
        for text in (QUESTION, SAME_QUESTION)
    )
    await give(cache, before, settings=SEMANTIC)

    assert await give(cache, after, settings=SEMANTIC) is None


async def test_what_was_said_before_a_question_counts_to_the_letter(cache: AnswerCache):
    def after(said: str, text: str) -> ChatRequest:
        system = {"role": "system", "content": said}
        return chat(messages=[system, {"role": "user", "content": text}])

    await give(cache, after("Be brief.", QUESTION), settings=SEMANTIC)

    other = await looking(cache, after("Be brief!", SAME_QUESTION), settings=SEMANTIC).find()
    same = await looking(cache, after("Be brief.", SAME_QUESTION), settings=SEMANTIC).find()

    assert other is None
    assert same is not None


async def test_a_question_in_one_part_is_a_question(cache: AnswerCache):
    await give(cache, chat(), settings=SEMANTIC)
    parts = [{"type": "text", "text": SAME_QUESTION}]

    found = await give(
        cache, chat(messages=[{"role": "user", "content": parts}]), settings=SEMANTIC
    )

    assert found is not None


async def test_shadow_serves_nothing_and_counts_whether_the_answers_agree(cache: AnswerCache):
    agreeing = [Delta(text="Hold the button for ten seconds.", finish_reason="stop")]
    differing = [Delta(text="Bananas are yellow.", finish_reason="stop")]
    await give(cache, chat(temperature=1), agreeing, settings=SHADOW)

    agreed = await give(cache, chat(SAME_QUESTION, temperature=1), agreeing, settings=SHADOW)
    differed = await give(cache, chat(temperature=1), differing, settings=SHADOW)

    assert (agreed, differed) == (None, None)
    assert cache.counts == {"miss": 3, "shadow_agrees": 1, "shadow_differs": 1}


@pytest.mark.parametrize("missing", [True, False], ids=["no model", "a model that is shut down"])
async def test_without_a_model_to_compare_them_other_words_are_a_miss(
    models_dir: Path, missing: bool
):
    minilm_of_its_own = await asyncio.to_thread(open_minilm, models_dir)
    if not missing:
        await minilm_of_its_own.aclose()
    embedder = None if missing else minilm_of_its_own
    cache = AnswerCache(MemoryCache(10_000), lambda: embedder, ttl_s=600)
    await give(cache, chat(), settings=SEMANTIC)

    assert await looking(cache, chat(SAME_QUESTION), settings=SEMANTIC).find() is None
    assert await looking(cache, chat(), settings=SEMANTIC).find() is not None
    await minilm_of_its_own.aclose()


async def test_answers_are_kept_for_so_long(minilm: OnnxEmbedder, clock: Clock):
    cache = AnswerCache(MemoryCache(10_000, clock=clock), lambda: minilm, ttl_s=600, clock=clock)
    await give(cache, chat())

    clock.now += 599
    kept = await looking(cache, chat()).find()
    clock.now += 2
    gone = await looking(cache, chat()).find()

    assert kept is not None
    assert gone is None
