"""First come, first served."""

import asyncio

import pytest

from galley.core.errors import BadRequestError, OverloadedError
from galley.services.slots import SlotQueue

pytestmark = pytest.mark.anyio


async def test_waiting_requests_are_served_in_the_order_they_came() -> None:
    queue, served = SlotQueue(slots=1, longest=10), list[int]()

    async def use(number: int) -> None:
        async with queue.slot():
            served.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(use(number) for number in range(5)))

    assert served == [0, 1, 2, 3, 4]
    assert (queue.busy, queue.waiting) == (0, 0)


async def test_no_more_than_the_slots_are_at_work_at_once() -> None:
    queue, most = SlotQueue(slots=3, longest=100), 0

    async def use() -> None:
        nonlocal most
        async with queue.slot():
            most = max(most, queue.busy)
            await asyncio.sleep(0)

    await asyncio.gather(*(use() for _ in range(20)))

    assert most == 3


async def test_who_finds_the_queue_full_is_refused_at_once() -> None:
    queue = SlotQueue(slots=1, longest=1)
    with queue.room(1), queue.room(1):
        with pytest.raises(OverloadedError) as refused, queue.room(1):
            pass

        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
    with queue.room(2):
        pass


async def test_a_request_for_more_answers_than_there_ever_is_room_for_is_the_callers_error() -> (
    None
):
    queue = SlotQueue(slots=2, longest=1)

    with pytest.raises(BadRequestError, match=r"4 answers .* \(3\)"), queue.room(4):
        pass


async def test_who_gives_up_waiting_leaves_the_queue() -> None:
    queue = SlotQueue(slots=1, longest=1)

    async def use() -> None:
        async with queue.slot():
            pass

    async with queue.slot():
        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert queue.waiting == 0
    async with queue.slot():
        assert queue.busy == 1


async def test_a_failure_frees_the_slot() -> None:
    queue = SlotQueue(slots=1, longest=0)

    with pytest.raises(ValueError, match="boom"):
        async with queue.slot():
            raise ValueError("boom")

    async with queue.slot():
        assert queue.busy == 1
