"""Limits in Redis, for servers that share them.

Redis may go away. Then nobody waits for it: less than half a second after the first who noticed,
everybody does without, until it answers again. What was settled meanwhile is told to it then.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
from redis.asyncio import Redis

from galley.core.errors import OverloadedError
from galley.core.limits import Metric
from galley.stores.limiter import Demand, Outcomes, Spent, State, Verdict
from galley.stores.limiter_instances import Instances
from galley.stores.limiter_ledger import LedgerReader
from galley.stores.limiter_memory import MemoryLimiter
from galley.stores.limiter_shared import RESERVE, SETTLE, Settlement, SharedCounters
from galley.stores.redis_pipe import LostError, RedisPipe, end

log = structlog.get_logger(__name__)

BEAT_S = 10.0
PROBE_S = 1.0
FORGET_LOCAL_S = 60.0
TOGETHER = 100
MOST_UNTOLD = 100_000

WITHOUT = {
    "local": "each server keeps the limits for itself",
    "open": "nothing is limited",
    "closed": "limited requests are refused",
}


@dataclass(frozen=True, slots=True)
class _Held:
    """A request that was let in; `local` when that was without Redis."""

    totals: Sequence[tuple[str, Metric]]
    local: MemoryLimiter | None = None


class RedisLimiter:
    """Keeps the counters in Redis. To be made on a running event loop.

    Args:
        redis: stays the caller's to close.
        spent: seeds the counters of days, months and ever.
        outcomes: settles what a server that died had reserved.
        instance_id: another one for every start of a server.
        lost: what to do while Redis is lost: keep the limits in this process, keep none, or
            refuse.
        clock: seconds since the epoch; None takes Redis's own, one for all servers.
    """

    def __init__(
        self,
        redis: Redis,
        spent: Spent,
        outcomes: Outcomes,
        *,
        instance_id: str,
        lost: Literal["local", "open", "closed"] = "local",
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.problem: str | None = None
        self._lost = lost
        self._new_local = lambda: MemoryLimiter(spent, clock=clock)
        self._local = self._new_local()
        self._lost_at = -FORGET_LOCAL_S
        self._held: dict[str, _Held] = {}
        self._untold: deque[Settlement] = deque(maxlen=MOST_UNTOLD)
        self._pipe = pipe = RedisPipe(redis, [RESERVE, SETTLE])
        self._counters = SharedCounters(pipe, LedgerReader(spent), instance_id, clock)
        self._instances = Instances(pipe, self._counters, outcomes, instance_id)
        self._wake = asyncio.Event()
        self._upkeep = asyncio.get_running_loop().create_task(self._look_after())

    async def reserve(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        if not demands:
            return Verdict([])
        if self.problem is None:
            try:
                return await self._reserve_shared(request_id, demands)
            except LostError as error:
                self._lose(error)
        return await self._reserve_without(request_id, demands)

    async def settle(
        self, request_id: str, demands: Sequence[Demand], used: Mapping[Metric, int]
    ) -> None:
        held = self._held.pop(request_id, None)
        if held is None:
            return
        settlement = Settlement(request_id, used, held.totals)
        if held.local is not None:
            await held.local.settle(request_id, demands, used)
        elif self.problem is not None:
            self._local.add(demands, used)
        if self.problem is not None:
            self._untold.append(settlement)
            return
        try:
            await self._counters.settle(settlement)
        except LostError as error:
            self._untold.append(settlement)
            self._lose(error)
        except asyncio.CancelledError:
            self._tell_later(settlement)
            raise

    async def aclose(self) -> None:
        await end(self._upkeep)
        with contextlib.suppress(LostError):
            await self._tell_untold()
            await self._instances.leave()
        await self._pipe.aclose()

    async def _reserve_shared(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        try:
            verdict = await self._counters.reserve(request_id, demands)
        except (LostError, asyncio.CancelledError):
            # It may have been reserved all the same.
            self._tell_later(Settlement(request_id, {}, how="release"))
            raise
        if verdict.refused is None:
            self._held[request_id] = _Held(self._counters.totals(demands))
        return verdict

    async def _reserve_without(self, request_id: str, demands: Sequence[Demand]) -> Verdict:
        if self._lost == "closed":
            raise OverloadedError(
                "Limits cannot be checked now. Try again in a second.",
                code="limiter_unavailable",
                retry_after=1.0,
            )
        local = None
        verdict = Verdict([State(demand.limit, 0.0) for demand in demands])
        if self._lost == "local":
            local = self._local
            verdict = await local.reserve(request_id, demands)
        if verdict.refused is None:
            self._held[request_id] = _Held(self._counters.totals(demands), local)
        return verdict

    def _tell_later(self, settlement: Settlement) -> None:
        self._untold.append(settlement)
        self._wake.set()

    async def _tell_untold(self) -> None:
        while self._untold:
            batch = [self._untold.popleft() for _ in range(min(TOGETHER, len(self._untold)))]
            try:
                await asyncio.gather(*(self._counters.settle(settlement) for settlement in batch))
            except (LostError, asyncio.CancelledError):
                self._untold.extendleft(reversed(batch))
                raise

    def _lose(self, error: LostError) -> None:
        self._wake.set()
        if self.problem is None:
            # Lost again at once, it must not let in as much as after a long time.
            if time.monotonic() - self._lost_at > FORGET_LOCAL_S:
                self._local = self._new_local()
            self._lost_at = time.monotonic()
            self.problem = f"Redis is lost ({error}): {WITHOUT[self._lost]}"
            log.warning("limiter_lost", reason=str(error), mode=self._lost)

    def _found(self) -> None:
        if self.problem is not None:
            self.problem = None
            log.info("limiter_found")

    async def _look_after(self) -> None:
        """Show that this server lives, settle for the dead, and look for Redis when it is lost."""
        while True:
            try:
                await self._instances.beat()
                await self._tell_untold()
                self._found()
                await self._instances.release_dead()
            except LostError as error:
                self._lose(error)
            except Exception:  # such as a ledger that does not answer; the next beat tries again
                log.exception("limiter_upkeep_failed")
            await self._pause()

    async def _pause(self) -> None:
        if self.problem is None:
            # Not `wait_for`: before Python 3.12, being cancelled while woken is lost in it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._wake.wait()
        self._wake.clear()
        if self.problem is not None:
            await asyncio.sleep(PROBE_S)
