"""Pieces that come at once leave at once; whoever stops in between leaves nothing behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from galley.core.errors import OverloadedError
from galley.routers.sse import flushing

pytestmark = pytest.mark.anyio


class Source:
    """Pieces that come when they are let, and an end that takes its time."""

    def __init__(self) -> None:
        self.next_one: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waited: asyncio.Future[str] | None = None
        self.failure: BaseException | None = None
        self.ended = False

    async def pieces(self) -> AsyncGenerator[str]:
        try:
            yield "first"
            self.waited = self.next_one
            try:
                yield await self.next_one
            except OSError as error:
                raise OverloadedError("The model's server broke off.") from error
        except BaseException as error:
            self.failure = error
            raise
        finally:
            await asyncio.sleep(0)  # as gathering tasks or closing a connection takes a while
            await asyncio.sleep(0)
            self.ended = True


async def relay(source: Source, sent: list[str], gate: asyncio.Event) -> None:
    """Send what comes, to somebody who reads when `gate` is open."""
    parts: list[str] = []

    async def flush() -> None:
        if parts:
            await gate.wait()
            sent.append("".join(parts))
            parts.clear()

    async with aclosing(source.pieces()) as pieces:
        while (piece := await flushing(anext(pieces, None), flush)) is not None:
            parts.append(piece)
    await flush()


async def until_it_flushes() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_is_there_leaves_before_the_next_piece_is_waited_for() -> None:
    source, sent, gate = Source(), list[str](), asyncio.Event()
    gate.set()
    relaying = asyncio.create_task(relay(source, sent, gate))
    await until_it_flushes()

    assert sent == ["first"]
    source.next_one.set_result("second")
    await relaying

    assert sent == ["first", "second"]


async def test_a_piece_that_comes_while_a_slow_reader_is_waited_for_is_not_lost() -> None:
    source, sent, gate = Source(), list[str](), asyncio.Event()
    relaying = asyncio.create_task(relay(source, sent, gate))
    await until_it_flushes()

    source.next_one.set_result("second")
    await until_it_flushes()
    gate.set()
    await relaying

    assert sent == ["first", "second"]


@pytest.mark.parametrize("slow", [True, False], ids=["while it sends", "while it waits"])
async def test_who_hangs_up_ends_the_source_in_order(slow: bool) -> None:
    source, sent, gate = Source(), list[str](), asyncio.Event()
    if not slow:
        gate.set()
    relaying = asyncio.create_task(relay(source, sent, gate))
    await until_it_flushes()

    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying

    assert source.ended
    assert isinstance(source.failure, asyncio.CancelledError)
    assert source.waited is not None
    assert source.waited.cancelled()


async def test_a_reader_that_is_gone_is_no_failure_of_the_source() -> None:
    source = Source()

    async def flush() -> None:
        raise ConnectionResetError("the reader is gone")

    async with aclosing(source.pieces()) as pieces:
        await anext(pieces)
        with pytest.raises(ConnectionResetError):
            await flushing(anext(pieces), flush)

    assert source.ended
    assert isinstance(source.failure, asyncio.CancelledError)


async def test_a_source_that_fails_meanwhile_says_so_once_all_was_sent() -> None:
    source, sent, gate = Source(), list[str](), asyncio.Event()
    relaying = asyncio.create_task(relay(source, sent, gate))
    await until_it_flushes()

    source.next_one.set_exception(OSError("cut"))
    gate.set()
    with pytest.raises(OverloadedError):
        await relaying

    assert sent == ["first"]
