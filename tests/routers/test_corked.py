"""What is written together leaves together."""

import asyncio
from typing import cast

import pytest

from galley.routers.corked import MOST_HELD_BYTES, CorkedTransport

pytestmark = pytest.mark.anyio


class Wire:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("closed")

    def abort(self) -> None:
        self.told.append("aborted")

    def get_write_buffer_size(self) -> int:
        return 100

    def is_closing(self) -> bool:
        return "closed" in self.told


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def corked(wire: Wire) -> CorkedTransport:
    return CorkedTransport(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_what_is_written_in_one_turn_leaves_at_its_end_in_one_piece(
    wire: Wire, corked: CorkedTransport
) -> None:
    corked.write(b"head")
    corked.write(b"body")
    assert wire.told == []
    assert corked.get_write_buffer_size() == 108

    await asyncio.sleep(0)

    assert wire.told == [b"headbody"]
    assert corked.get_write_buffer_size() == 100


async def test_what_is_written_in_the_next_turn_leaves_by_itself(
    wire: Wire, corked: CorkedTransport
) -> None:
    for piece in (b"one", b"two"):
        corked.write(piece)
        await asyncio.sleep(0)

    assert wire.told == [b"one", b"two"]


async def test_much_is_not_held(wire: Wire, corked: CorkedTransport) -> None:
    large = b"x" * MOST_HELD_BYTES
    corked.write(b"a")
    corked.write(large)

    assert wire.told == [b"a" + large]


async def test_closing_sends_what_is_held_first(wire: Wire, corked: CorkedTransport) -> None:
    corked.write(b"last")
    corked.close()
    await asyncio.sleep(0)

    assert wire.told == [b"last", "closed"]


async def test_aborting_drops_what_is_held(wire: Wire, corked: CorkedTransport) -> None:
    corked.write(b"last")
    corked.abort()
    await asyncio.sleep(0)

    assert wire.told == ["aborted"]
