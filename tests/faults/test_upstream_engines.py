"""Whatever another server does, an engine ends in time, says whose fault it was, and tells nobody
else's secrets."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
)
from galley.engines.anthropic_http import AnthropicHttpEngine
from galley.engines.http_patience import Patience
from galley.engines.openai_http import OpenAIHttpEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Delta
from tests import upstream, upstream_faults
from tests.certificates import loopback_certificate
from tests.upstream import Behaviour, Call, Upstream, misbehaving

pytestmark = pytest.mark.anyio

KEY, ORGANISATION = "sk-secret-0123456789", "secret-organisation"
PATIENCE = Patience(connect=2.0, first_token=0.9, idle=0.7)
REQUEST = ChatRequest.model_validate(
    {"model": "ours", "messages": [{"role": "user", "content": "Hi"}]}
)
Engine = OpenAIHttpEngine | AnthropicHttpEngine

FAULTS: list[tuple[Behaviour, type[GalleyError], str]] = [
    (upstream_faults.hang_before_headers, EngineTimeoutError, "engine_timeout"),
    (upstream_faults.hang_before_the_first_token, EngineTimeoutError, "engine_timeout"),
    (upstream_faults.hang_mid_stream, EngineTimeoutError, "engine_timeout"),
    (upstream_faults.drip, EngineTimeoutError, "engine_timeout"),
    (upstream_faults.cut_before_headers, OverloadedError, "engine_unavailable"),
    (upstream_faults.cut_mid_stream, OverloadedError, "engine_unavailable"),
    (upstream_faults.end_mid_stream, OverloadedError, "engine_unavailable"),
    (upstream_faults.truncated_chunk, OverloadedError, "engine_unavailable"),
    (upstream_faults.busy, OverloadedError, "engine_unavailable"),
    (upstream_faults.busy_until_a_date, OverloadedError, "engine_unavailable"),
    (upstream_faults.overloaded, OverloadedError, "engine_unavailable"),
    (upstream_faults.garbage_json, EngineError, "engine_error"),
    (upstream_faults.garbage_http, EngineError, "engine_error"),
    (upstream_faults.wrong_type, EngineError, "engine_error"),
    (upstream_faults.compressed, EngineError, "engine_error"),
    (upstream_faults.internal_error, EngineError, "engine_error"),
    (upstream_faults.no_such_model, EngineError, "engine_error"),
    (upstream_faults.redirect, EngineError, "engine_error"),
    (upstream_faults.endless, EngineError, "engine_error"),
    (upstream_faults.huge_event, EngineError, "engine_error"),
    (upstream_faults.nothing_chosen, EngineError, "engine_error"),
    (upstream_faults.error_event, EngineError, "engine_error"),
    (upstream_faults.bad_key, EngineError, "upstream_auth"),
    (upstream_faults.refusal, BadRequestError, "refused_by_model"),
]
STILL_AN_ANSWER: list[Behaviour] = [
    upstream.well,
    upstream_faults.missing_done,
    upstream_faults.missing_usage,
    upstream_faults.utf8_split,
    upstream_faults.crlf,
    upstream_faults.comments,
    upstream_faults.several_data_lines,
    upstream_faults.hang_after_the_end,
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return loopback_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(
    params=[(OpenAIHttpEngine, False), (AnthropicHttpEngine, False), (OpenAIHttpEngine, True)],
    ids=["openai", "anthropic", "openai over TLS"],
)
async def setting(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    certificate: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Upstream, Engine]]:
    """A server, and an engine that asks it; afterwards nothing was leaked, connections included."""
    kind, over_tls = request.param
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with misbehaving(tls=certificate[0] if over_tls else None) as server:
        engine: Engine = kind(
            server.url,
            "theirs",
            api_key=KEY,
            slots=4,
            headers={"x-organisation": ORGANISATION},
            patience=PATIENCE,
        )
        yield server, engine
        await engine.aclose()
        await until_closed(server)
    told = capsys.readouterr().out
    assert KEY not in told
    assert ORGANISATION not in told
    assert str(server.port) not in told


async def until_closed(server: Upstream) -> None:
    async with asyncio.timeout(5):
        while server.open_connections:  # noqa: ASYNC110 - it is on another thread
            await asyncio.sleep(0.005)


async def answer(engine: Engine) -> list[Delta]:
    return [delta async for pieces in engine.stream(REQUEST) for delta in pieces]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize(
    ("behaviour", "raised", "code"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS]
)
async def test_every_fault_ends_in_time_with_its_own_error_and_without_their_words(
    setting: tuple[Upstream, Engine],
    behaviour: Behaviour,
    raised: type[GalleyError],
    code: str,
) -> None:
    server, engine = setting
    server.behaviour = behaviour
    began = time.monotonic()

    with pytest.raises(raised) as failure:
        await answer(engine)

    assert time.monotonic() - began < 3
    assert failure.type is raised
    assert failure.value.code == code
    for theirs in (KEY, ORGANISATION, str(server.port), "127.0.0.1", "memory", "sk-other", "/v1"):
        assert theirs not in failure.value.message
    assert len(server.calls) == 1


@pytest.mark.parametrize("behaviour", [fault[0] for fault in FAULTS], ids=lambda b: b.__name__)
async def test_the_request_after_a_fault_is_answered(
    setting: tuple[Upstream, Engine], behaviour: Behaviour
) -> None:
    server, engine = setting
    server.behaviour = behaviour
    with pytest.raises(GalleyError):
        await answer(engine)
    server.behaviour = upstream.well

    deltas = await answer(engine)

    assert text_of(deltas) == upstream.TEXT


@pytest.mark.parametrize("behaviour", STILL_AN_ANSWER, ids=lambda b: b.__name__)
async def test_bad_manners_are_still_an_answer_that_is_counted(
    setting: tuple[Upstream, Engine], behaviour: Behaviour
) -> None:
    server, engine = setting
    server.behaviour = behaviour
    began = time.monotonic()

    deltas = await answer(engine)

    assert time.monotonic() - began < 1
    assert text_of(deltas).replace("é", "") == upstream.TEXT
    assert ("é" in text_of(deltas)) == (behaviour is upstream_faults.utf8_split)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    usages = [delta.usage for delta in deltas if delta.usage]
    assert usages[-1].prompt_tokens > 0
    if behaviour is not upstream_faults.missing_usage:
        assert usages[-1].prompt_tokens == upstream.PROMPT_TOKENS
        assert usages[-1].completion_tokens == upstream.COMPLETION_TOKENS


async def test_a_server_that_says_when_to_come_back_is_heard(
    setting: tuple[Upstream, Engine],
) -> None:
    server, engine = setting
    waits: list[float | None] = []
    for behaviour in (
        upstream_faults.busy,
        upstream_faults.busy_until_a_date,
        upstream_faults.overloaded,
    ):
        server.behaviour = behaviour
        with pytest.raises(OverloadedError) as failure:
            await answer(engine)
        waits.append(failure.value.retry_after)

    seconds, date, unsaid = waits
    assert (seconds, unsaid) == (7, 1)
    assert date is not None
    assert 25 < date <= 30


async def test_a_server_that_is_down_is_a_problem_until_it_is_back(
    setting: tuple[Upstream, Engine],
) -> None:
    server, engine = setting
    server.close_port()

    with pytest.raises(OverloadedError) as failure:
        await answer(engine)

    assert failure.value.code == "engine_unavailable"
    assert "127.0.0.1" not in failure.value.message
    assert engine.problem == "its server does not answer"
    server.open_port()
    assert text_of(await answer(engine)) == upstream.TEXT


async def test_answers_that_were_read_to_their_end_share_a_connection(
    setting: tuple[Upstream, Engine],
) -> None:
    server, engine = setting

    for _ in range(5):
        await answer(engine)

    assert (len(server.calls), server.connections) == (5, 1)


async def test_an_idle_connection_that_died_costs_no_request(
    setting: tuple[Upstream, Engine],
) -> None:
    server, engine = setting
    await answer(engine)

    async def die_once(call: Call) -> None:
        server.behaviour = upstream.well
        await upstream_faults.cut_before_headers(call)

    server.behaviour = die_once

    deltas = await answer(engine)

    assert text_of(deltas) == upstream.TEXT
    assert (len(server.calls), server.connections) == (3, 2)


async def test_who_reads_slowly_is_not_taken_for_a_slow_server(
    setting: tuple[Upstream, Engine],
) -> None:
    server, engine = setting

    async def one_by_one(call: Call) -> None:
        await call.begin()
        for event in call.good():
            await call.events(event, end=False)
            await asyncio.sleep(0.01)
        await call.send(b"0\r\n\r\n")

    server.behaviour = one_by_one
    said = ""
    async with aclosing(engine.stream(REQUEST)) as answer:
        async for pieces in answer:
            said += text_of(pieces)
            if text_of(pieces) == upstream.WORDS[0]:
                await asyncio.sleep(2 * PATIENCE.first_token)

    assert said == upstream.TEXT


@pytest.mark.parametrize("ending", ["closed", "cancelled"])
async def test_who_asks_no_more_hangs_up(setting: tuple[Upstream, Engine], ending: str) -> None:
    server, engine = setting
    server.behaviour = upstream_faults.hang_mid_stream
    stream = engine.stream(REQUEST)
    while not text_of(await anext(stream)):
        pass

    if ending == "cancelled":
        task = asyncio.ensure_future(_rest_of(stream))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await stream.aclose()

    await until_closed(server)


async def _rest_of(stream: AsyncIterator[list[Delta]]) -> list[Delta]:
    return [delta async for pieces in stream for delta in pieces]


async def test_a_request_of_megabytes_is_sent_whole(setting: tuple[Upstream, Engine]) -> None:
    server, engine = setting
    long = REQUEST.messages[0].model_copy(update={"content": "a" * 3_000_000})

    deltas = [
        d
        async for pieces in engine.stream(REQUEST.model_copy(update={"messages": [long]}))
        for d in pieces
    ]

    assert text_of(deltas) == upstream.TEXT
    assert "a" * 3_000_000 in str(server.calls[0].body["messages"])
