import asyncio

import pytest

from galley.stores.forgetting import Forgetting
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio


class Memory:
    """What one server was told to forget."""

    def __init__(self) -> None:
        self.told: list[str | None] = []
        self._news = asyncio.Event()

    def forget(self, user_id: str | None) -> None:
        self.told.append(user_id)
        self._news.set()

    async def hears(self, times: int) -> list[str | None]:
        async with asyncio.timeout(10):
            while len(self.told) < times:
                self._news.clear()
                await self._news.wait()
        return self.told


async def test_every_server_hears_whom_one_of_them_forgets(redis_server: RedisServer):
    here, there = Memory(), Memory()
    async with redis_server.client() as one, redis_server.client() as other:
        telling, hearing = Forgetting(one, here.forget), Forgetting(other, there.forget)
        await asyncio.gather(here.hears(1), there.hears(1))

        telling.tell("user-1")
        telling.tell(None)

        assert sorted(await there.hears(3), key=str) == [None, None, "user-1"]
        assert len(await here.hears(3)) == 3
        for server in (telling, hearing):
            await server.aclose()


async def test_who_lost_redis_forgets_everybody_when_it_is_back(redis_server: RedisServer):
    memory = Memory()
    async with redis_server.client() as client:
        forgetting = Forgetting(client, memory.forget)
        await memory.hears(1)

        redis_server.stop()
        redis_server.start()

        assert await memory.hears(2) == [None, None]
        await forgetting.aclose()
