"""The queue in front of a model: who is next, who is refused, and who leaves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from galley.core.errors import BadRequestError, OverloadedError
from galley.services.slots import SlotQueue, Ticket

pytestmark = pytest.mark.anyio


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Turns:
    """Turns at a queue, each over when the test ends it; `begun` has them in their order."""

    def __init__(self, queue: SlotQueue, clock: Clock) -> None:
        self.queue = queue
        self.clock = clock
        self.begun: list[str] = []
        self.tickets: dict[str, Ticket] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str, weight: float = 1, background: bool = False) -> None:
        """Ask for turns called like their user, with a number behind."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._use(name, weight, background))
        await self.settle()

    async def end(self, name: str, *, after: float = 1.0) -> None:
        """Let a turn end after so many seconds."""
        self.clock.now += after
        self._ends[name].set()
        await self.settle()

    async def end_all(self, *, each: float = 1.0) -> list[str]:
        """Let turns end one by one, each after so many seconds, until none is left."""
        ended = 0
        while ended < len(self.begun):
            if not self.tasks[self.begun[ended]].done():
                await self.end(self.begun[ended], after=each)
            ended += 1
        return self.begun

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _use(self, name: str, weight: float, background: bool) -> None:
        def note(ticket: Ticket) -> None:
            self.tickets[name] = ticket

        owner = name.rstrip("0123456789")
        async with self.queue.slot(owner, weight, background=background, on_wait=note):
            self.begun.append(name)
            await self._ends[name].wait()


@asynccontextmanager
async def turns(slots: int, longest: int = 100) -> AsyncGenerator[Turns]:
    clock = Clock()
    found = Turns(SlotQueue(slots, longest, clock=clock), clock)
    yield found
    for task in found.tasks.values():
        task.cancel()
    await asyncio.gather(*found.tasks.values(), return_exceptions=True)
    assert (found.queue.busy, found.queue.waiting) == (0, 0)


def many(owner: str, count: int) -> list[str]:
    return [f"{owner}{number}" for number in range(count)]


async def test_a_users_own_turns_come_in_the_order_they_were_asked_for() -> None:
    async with turns(slots=2) as queue:
        await queue.ask(*many("ada", 6))

        assert await queue.end_all() == many("ada", 6)


@pytest.mark.parametrize("slots", [1, 4])
async def test_behind_a_flood_of_fifty_another_user_is_next(slots: int) -> None:
    async with turns(slots) as queue:
        await queue.ask(*many("flood", 50))
        await queue.ask("other")
        stood = queue.tickets["other"].stands

        order = await queue.end_all(each=10)

    waiting = 50 - slots + 1
    assert stood == (1, waiting)
    assert queue.tickets["flood49"].place == waiting - 1
    assert order.index("other") == slots, "it waited for the end of one turn"
    assert queue.tickets["other"].behind == 0


async def test_several_users_wait_for_one_turn_of_each_other_and_not_for_a_flood() -> None:
    async with turns(slots=1) as queue:
        await queue.ask(*many("flood", 10))
        await queue.ask("ada", "bob", "eve")

        order = await queue.end_all()

    assert set(order[1:4]) == {"ada", "bob", "eve"}
    assert queue.tickets["eve"].place == 3


async def test_users_share_by_the_weight_of_their_tiers() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("first")
        await queue.ask(*many("heavy", 40), weight=4)
        await queue.ask(*many("light", 40))

        order = await queue.end_all()

    early = order[1:31]
    assert sum(name.startswith("heavy") for name in early) == pytest.approx(24, abs=1)


async def test_long_turns_count_for_more_than_short_ones() -> None:
    held = {"long": 0.0, "short": 0.0}
    async with turns(slots=1) as queue:
        await queue.ask(*many("long", 60))
        await queue.ask(*many("short", 60))
        for ended in range(44):
            owner = queue.begun[ended].rstrip("0123456789")
            seconds = 10.0 if owner == "long" else 1.0
            held[owner] += seconds
            await queue.end(queue.begun[ended], after=seconds)

    assert held["long"] / held["short"] == pytest.approx(1, rel=0.4)


async def test_who_comes_one_at_a_time_gains_nothing_by_it() -> None:
    """Nobody is forgotten between turns as long as others wait."""
    async with turns(slots=1) as queue:
        await queue.ask(*many("short", 40))
        await queue.ask("long0")
        number, ended = 0, 0
        while ended < 30:
            name = queue.begun[ended]
            await queue.end(name, after=10.0 if name.startswith("long") else 1.0)
            if name.startswith("long"):
                number += 1
                await queue.ask(f"long{number}")
            ended += 1

    assert sum(name.startswith("long") for name in queue.begun[:30]) <= 4


async def test_a_user_who_was_away_has_saved_nothing_up() -> None:
    async with turns(slots=1) as queue:
        await queue.ask(*many("busy", 30))
        for name in many("busy", 10):
            await queue.end(name)
        await queue.ask(*many("away", 10))

        order = await queue.end_all()

    share = order[11:21]
    assert sum(name.startswith("away") for name in share) == pytest.approx(5, abs=1)


async def test_the_place_moves_up_as_others_are_served() -> None:
    async with turns(slots=1) as queue:
        await queue.ask(*many("ada", 5))
        last = queue.tickets["ada4"]
        stood = [last.stands]
        for name in many("ada", 4):
            await queue.end(name)
            stood.append(last.stands)

    assert stood == [(4, 4), (3, 3), (2, 2), (1, 1), None]
    assert (last.place, last.of, last.behind) == (4, 4, 3)
    assert last.waited_s == 4


async def test_no_more_than_the_slots_are_at_work_at_once() -> None:
    queue, most = SlotQueue(slots=3, longest=100), 0

    async def use() -> None:
        nonlocal most
        async with queue.slot("ada"):
            most = max(most, queue.busy)
            await asyncio.sleep(0)

    await asyncio.gather(*(use() for _ in range(20)))

    assert (most, queue.busy, queue.served) == (3, 0, 20)


async def test_who_finds_the_queue_full_is_refused_at_once() -> None:
    queue = SlotQueue(slots=1, longest=1)
    with queue.room(1), queue.room(1):
        with pytest.raises(OverloadedError) as refused, queue.room(1):
            pass

        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
    with queue.room(2):
        pass


async def test_who_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    queue = SlotQueue(slots=1, longest=10, longest_wait_s=0.01)

    async with queue.slot("ada"):
        with pytest.raises(OverloadedError, match=r"within 0\.01 seconds") as refused:
            async with queue.slot("bob"):
                pass

        assert (refused.value.code, queue.waiting) == ("queue_timeout", 0)
        assert refused.value.retry_after is not None
    async with queue.slot("bob"):
        assert queue.busy == 1


async def test_a_request_for_more_answers_than_there_ever_is_room_for_is_the_callers_error() -> (
    None
):
    queue = SlotQueue(slots=2, longest=1)

    with pytest.raises(BadRequestError, match=r"4 answers .* \(3\)"), queue.room(4):
        pass


async def test_who_gives_up_waiting_leaves_the_queue() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("ada0", "ada1", "ada2", "bob")
        queue.tasks["ada1"].cancel()
        await queue.settle()

        left = (queue.queue.waiting, queue.tickets["ada2"].stands)
        order = await queue.end_all()

    assert left == (2, (2, 2))
    assert order == ["ada0", "bob", "ada2"]


async def test_who_hangs_up_in_the_moment_of_their_turn_passes_it_on() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("ada", "bob", "eve")
        queue._ends["ada"].set()
        await asyncio.sleep(0)
        granted = queue.tickets["bob"].granted
        queue.tasks["bob"].cancel()
        await queue.settle()

        assert granted
        assert queue.begun == ["ada", "eve"]
        assert queue.queue.busy == 1


async def test_who_has_hung_up_but_not_left_yet_is_passed_over() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("ada", "bob", "eve")
        queue._ends["ada"].set()
        queue.tasks["bob"].cancel()
        await queue.settle()

        assert queue.begun == ["ada", "eve"]
        assert (queue.queue.busy, queue.queue.waiting) == (1, 0)


async def test_a_failure_frees_the_slot() -> None:
    queue = SlotQueue(slots=1, longest=0)

    with pytest.raises(ValueError, match="boom"):
        async with queue.slot("ada"):
            raise ValueError("boom")

    async with queue.slot("ada"):
        assert queue.busy == 1


async def test_background_work_waits_while_anybody_else_does() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("ada0")
        await queue.ask("batch0", "batch1", background=True)
        await queue.ask("ada1", "bob")
        stood = queue.tickets["batch1"].stands

        order = await queue.end_all()

    assert order == ["ada0", "bob", "ada1", "batch0", "batch1"]
    assert stood == (4, 4)


async def test_background_work_leaves_a_slot_free_for_who_comes_next() -> None:
    async with turns(slots=3) as queue:
        await queue.ask(*many("batch", 5), background=True)
        begun = list(queue.begun)
        await queue.ask("ada")

        assert begun == ["batch0", "batch1"]
        assert queue.begun == ["batch0", "batch1", "ada"]
        await queue.end("ada")
        assert queue.begun == ["batch0", "batch1", "ada"], "that slot stays free"
        await queue.end("batch0")
        assert queue.begun == ["batch0", "batch1", "ada", "batch2"]


async def test_background_work_has_the_only_slot_while_nobody_wants_it() -> None:
    async with turns(slots=1) as queue:
        await queue.ask("batch0", "batch1", background=True)
        await queue.ask("ada")

        assert await queue.end_all() == ["batch0", "ada", "batch1"]


async def test_background_work_takes_no_room_from_others() -> None:
    queue = SlotQueue(slots=1, longest=1)

    with queue.room(2, background=True):
        with queue.room(2):
            pass
        with pytest.raises(OverloadedError), queue.room(1, background=True):
            pass
