import asyncio

import pytest

from galley.routers.turns import Turns

pytestmark = pytest.mark.anyio


class Crowd:
    """Requests that come together, and in which turn of the loop each began."""

    def __init__(self, most: int) -> None:
        self.began: list[int] = []
        self.numbers: list[int] = []
        self._turns = Turns(most)
        self._turn = 0

    async def come(self, number: int) -> None:
        await self._turns.mine()
        self.began.append(self._turn)
        self.numbers.append(number)

    async def count_turns(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)


@pytest.fixture
async def crowd() -> Crowd:
    return Crowd(8)


async def watched(crowd: Crowd, *tasks: "asyncio.Task[None]") -> None:
    counting = asyncio.create_task(crowd.count_turns())
    await asyncio.gather(*tasks, return_exceptions=True)
    counting.cancel()


async def test_of_a_crowd_a_few_begin_in_a_turn_of_the_loop_and_all_in_order(crowd: Crowd):
    tasks = [asyncio.create_task(crowd.come(number)) for number in range(50)]

    await watched(crowd, *tasks)

    assert crowd.numbers == list(range(50))
    assert max(crowd.began.count(turn) for turn in crowd.began) == 8
    assert len(set(crowd.began)) == 7


async def test_one_who_comes_alone_begins_at_once(crowd: Crowd):
    for number in range(20):
        coming = crowd.come(number)

        with pytest.raises(StopIteration):  # it waited for nothing
            coming.send(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert len(crowd.numbers) == 20


async def test_those_who_hang_up_while_they_wait_take_nobodys_turn(crowd: Crowd):
    tasks = [asyncio.create_task(crowd.come(number)) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[10:25]:
        task.cancel()

    await watched(crowd, *tasks)

    assert crowd.numbers == [*range(10), *range(25, 30)]
