"""Trying again, and elsewhere; the servers are scripts of what each call does."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import pytest

from galley.core.catalogue import ModelSettings
from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
    RateLimitError,
)
from galley.engines.base import Engine
from galley.services.breaker import FAILURES
from galley.services.dispatch import MOST_ATTEMPTS, Attempt, Dispatch
from galley.services.models import Loaded, Replica

pytestmark = pytest.mark.anyio

DOWN = EngineError("down", code="engine_error")
FULL = OverloadedError("full", code="queue_full")
Call = list[str | GalleyError]


class Servers:
    """Named servers; each call of one does what its script says, and the last line of it again."""

    def __init__(self, **scripts: list[Call]) -> None:
        self._scripts = scripts
        self.calls: list[str] = []
        self.closed = 0

    def targets(self, *, replicas: int = 1, source: str = "http://far/v1") -> list[Loaded[Engine]]:
        settings = ModelSettings(kind="chat", source=source)
        return [
            Loaded(name, [Replica(cast("Engine", None)) for _ in range(replicas)], settings)
            for name in self._scripts
        ]

    async def ask(self, target: Loaded[Engine], _: Replica[Engine]) -> AsyncGenerator[str]:
        self.calls.append(target.name)
        script = self._scripts[target.name]
        call = script.pop(0) if len(script) > 1 else script[0]
        try:
            for line in call:
                if isinstance(line, GalleyError):
                    raise line
                await asyncio.sleep(0)
                yield line
        finally:
            self.closed += 1


async def gather(
    dispatch: Dispatch, servers: Servers, targets: list[Loaded[Engine]], **more: Any
) -> tuple[list[str], list[Attempt]]:
    attempts: list[Attempt] = []
    async with aclosing(stream(dispatch, servers, targets, attempts, **more)) as pieces:
        return [piece async for piece in pieces], attempts


async def stream(
    dispatch: Dispatch,
    servers: Servers,
    targets: list[Loaded[Engine]],
    attempts: list[Attempt],
    *,
    counts: Callable[[str], bool] = lambda _: True,
) -> AsyncGenerator[str]:
    """Answer as a service does: the first piece that counts reaches the caller."""
    async for turn in dispatch.course(targets, attempts):
        with turn:
            async with aclosing(servers.ask(turn.target, turn.replica)) as pieces:
                async for piece in pieces:
                    if counts(piece):
                        turn.answered()
                    yield piece
            return


@pytest.fixture
def dispatch() -> Dispatch:
    return Dispatch(draw=lambda: 0.0)


async def test_the_first_that_answers_is_enough(dispatch: Dispatch) -> None:
    servers = Servers(big=[["a", "b"]], small=[["x"]])

    pieces, attempts = await gather(dispatch, servers, servers.targets())

    assert pieces == ["a", "b"]
    assert [(a.model, a.replica, a.breaker, a.outcome) for a in attempts] == [
        ("big", 0, "closed", "ok")
    ]


@pytest.mark.parametrize(
    "failure",
    [DOWN, OverloadedError("away", code="engine_unavailable"), EngineTimeoutError("t"), FULL,
     RateLimitError("too many", code="rate_limit_exceeded")],
    ids=["502", "503", "504", "queue", "limit"],
)  # fmt: skip
async def test_before_the_first_piece_a_fallback_takes_over(
    dispatch: Dispatch, failure: GalleyError
) -> None:
    servers = Servers(big=[[failure]], small=[["x"]])

    pieces, attempts = await gather(dispatch, servers, servers.targets())

    assert pieces == ["x"]
    assert [a.model for a in attempts] == ["big", "small"]
    assert attempts[0].outcome == (failure.code or "EngineTimeoutError")


async def test_after_the_first_piece_nobody_takes_over(dispatch: Dispatch) -> None:
    servers = Servers(big=[["a", DOWN]], small=[["x"]])

    with pytest.raises(EngineError):
        await gather(dispatch, servers, servers.targets())

    assert servers.calls == ["big"]


async def test_pieces_that_nobody_sees_do_not_count(dispatch: Dispatch) -> None:
    servers = Servers(big=[["", DOWN]], small=[["x"]])

    pieces, _ = await gather(dispatch, servers, servers.targets(), counts=bool)

    assert pieces == ["", "x"]


async def test_what_is_wrong_with_the_request_is_wrong_everywhere(dispatch: Dispatch) -> None:
    servers = Servers(big=[[BadRequestError("no")]], small=[["x"]])

    with pytest.raises(BadRequestError):
        await gather(dispatch, servers, servers.targets())

    assert servers.calls == ["big"]


async def test_alone_it_is_tried_three_times(dispatch: Dispatch) -> None:
    servers = Servers(big=[[DOWN]])

    with pytest.raises(EngineError):
        await gather(dispatch, servers, servers.targets())

    assert len(servers.calls) == MOST_ATTEMPTS


async def test_a_failure_that_passes_is_not_seen(dispatch: Dispatch) -> None:
    servers = Servers(big=[[DOWN], ["a"]])

    pieces, attempts = await gather(dispatch, servers, servers.targets())

    assert pieces == ["a"]
    assert [a.outcome for a in attempts] == ["engine_error", "ok"]


async def test_a_model_of_this_machine_is_not_asked_twice(dispatch: Dispatch) -> None:
    servers = Servers(big=[[DOWN]])

    with pytest.raises(EngineError):
        await gather(dispatch, servers, servers.targets(source="path:/model.gguf"))

    assert servers.calls == ["big"]


async def test_a_full_queue_is_not_waited_for(dispatch: Dispatch) -> None:
    servers = Servers(big=[[FULL]])

    with pytest.raises(OverloadedError):
        await gather(dispatch, servers, servers.targets())

    assert servers.calls == ["big"]


async def test_who_says_to_come_back_much_later_is_not_asked_again(dispatch: Dispatch) -> None:
    busy = OverloadedError("busy", code="engine_unavailable", retry_after=30, is_told=True)
    servers = Servers(big=[[busy]])

    with pytest.raises(OverloadedError) as told:
        await gather(dispatch, servers, servers.targets())

    assert servers.calls == ["big"]
    assert told.value.retry_after == 30


async def test_a_dead_server_is_left_alone_and_asked_again_when_it_is_back(
    dispatch: Dispatch,
) -> None:
    servers = Servers(big=[[DOWN]])
    targets = servers.targets()
    refusals: list[GalleyError] = []
    for _ in range(60):
        with pytest.raises(GalleyError) as refused:
            await gather(dispatch, servers, targets)
        refusals.append(refused.value)

    assert len(servers.calls) <= 20
    assert refusals[-1].code == "circuit_open"
    assert refusals[-1].retry_after is not None


async def test_a_dead_server_costs_those_with_a_fallback_nothing(dispatch: Dispatch) -> None:
    servers = Servers(big=[[DOWN]], small=[["x"]])
    targets = servers.targets()

    for _ in range(60):
        assert (await gather(dispatch, servers, targets))[0] == ["x"]

    assert servers.calls.count("big") == FAILURES


async def test_retries_stop_when_a_tenth_of_the_requests_had_one(dispatch: Dispatch) -> None:
    # Of three calls one fails, so the breaker stays closed.
    calls: list[Call] = [[DOWN], ["a"], ["a"]] * 100
    servers = Servers(big=calls)
    targets = servers.targets()

    failed = 0
    for _ in range(150):
        try:
            await gather(dispatch, servers, targets)
        except EngineError:
            failed += 1

    assert failed > 0
    assert len(servers.calls) - 150 <= 10 + 15


async def test_the_least_busy_replica_is_asked(dispatch: Dispatch) -> None:
    servers = Servers(big=[["a", "b"]])
    (target,) = servers.targets(replicas=2)
    first = stream(dispatch, servers, [target], [])
    attempts: list[Attempt] = []

    async with aclosing(first):
        await anext(first)
        async with aclosing(stream(dispatch, servers, [target], attempts)) as second:
            assert [piece async for piece in second] == ["a", "b"]

    assert attempts[0].replica == 1
    assert [replica.busy for replica in target.replicas] == [0, 0]


async def test_another_replica_takes_over(dispatch: Dispatch) -> None:
    servers = Servers(big=[[DOWN], ["a"]])
    (target,) = servers.targets(replicas=2)

    pieces, attempts = await gather(dispatch, servers, [target])

    assert pieces == ["a"]
    assert [a.replica for a in attempts] == [0, 1]


async def test_a_hang_up_closes_the_call_and_says_so(dispatch: Dispatch) -> None:
    servers = Servers(big=[["a", "b"]])
    attempts: list[Attempt] = []
    answer = stream(dispatch, servers, servers.targets(), attempts)

    await anext(answer)
    await answer.aclose()

    assert servers.closed == 1
    assert attempts[0].outcome == "cancelled"


async def test_a_server_that_failed_others_during_the_pause_is_left_alone() -> None:
    dispatch, servers = Dispatch(draw=lambda: 0.1), Servers(only=[[DOWN]])
    (only,) = targets = servers.targets()
    waiting = asyncio.create_task(gather(dispatch, servers, targets))
    for _ in range(5):
        await asyncio.sleep(0)
    assert servers.calls == ["only"]

    for _ in range(FAILURES):
        only.replicas[0].breaker.failed()
    with pytest.raises(EngineError):
        await waiting

    assert servers.calls == ["only"]
