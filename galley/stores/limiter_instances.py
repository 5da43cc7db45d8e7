"""The servers that share the counters: signs of life, and what the dead leave behind."""

import asyncio

from galley.stores.limiter import Outcomes
from galley.stores.limiter_shared import (
    ALIVE_S,
    INSTANCES,
    Settlement,
    SharedCounters,
    alive_key,
    held_key,
)
from galley.stores.redis_pipe import RedisPipe

DAY_S = 86_400
TOGETHER = 500


class Instances:
    """Shows that this server lives, and settles for those that do not.

    Args:
        outcomes: what the requests of the dead came to.
    """

    def __init__(
        self, pipe: RedisPipe, counters: SharedCounters, outcomes: Outcomes, instance_id: str
    ) -> None:
        self._pipe = pipe
        self._counters = counters
        self._outcomes = outcomes
        self._instance_id = instance_id

    async def beat(self) -> None:
        """Show that this server lives."""
        send = self._pipe.send
        await asyncio.gather(
            send("SET", alive_key(self._instance_id), 1, "EX", ALIVE_S),
            send("SADD", INSTANCES, self._instance_id),
            send("EXPIRE", INSTANCES, DAY_S),
            send("EXPIRE", held_key(self._instance_id), DAY_S),
        )

    async def release_dead(self) -> None:
        """Settle what the dead hold with what the ledger says; others may do so as well."""
        for instance_id in _texts(await self._pipe.send("SMEMBERS", INSTANCES)):
            if instance_id != self._instance_id and not await self._pipe.send(
                "EXISTS", alive_key(instance_id)
            ):
                await self._release(instance_id)

    async def leave(self) -> None:
        """Say that this server stops: what it still holds is for others to settle."""
        await self._pipe.send("DEL", alive_key(self._instance_id))
        if not await self._pipe.send("EXISTS", held_key(self._instance_id)):
            await self._pipe.send("SREM", INSTANCES, self._instance_id)

    async def _release(self, instance_id: str) -> None:
        held = _texts(await self._pipe.send("HKEYS", held_key(instance_id)))
        for begin in range(0, len(held), TOGETHER):
            request_ids = held[begin : begin + TOGETHER]
            known = await self._outcomes(request_ids)
            await asyncio.gather(
                *(
                    self._counters.settle(
                        Settlement(request_id, known.get(request_id, {}), how="release"),
                        instance_id,
                    )
                    for request_id in request_ids
                )
            )
        await self._pipe.send("SREM", INSTANCES, instance_id)


def _texts(values: list[bytes | str] | set[bytes | str]) -> list[str]:
    """Text, whether or not the client decodes."""
    return [value.decode() if isinstance(value, bytes) else value for value in values]
