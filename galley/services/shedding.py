"""Who is turned away while the server has too much to do, is short of memory, or stops.

Pressure is how late the event loop is, or how many requests are in flight, whichever is more, as a
share of what is too much. A request is refused while the pressure is as high as the weight of its
tier: 1 for the free tier, 4 for premium, 16 for enterprise. So the free tier is refused first.

Memory is what the server and its engines take. Beyond the limit, requests with large bodies are
refused, whoever sends them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from galley.core.caller import Caller
from galley.core.errors import OverloadedError

LATE_S = 0.5
"""An event loop that is so late has too much to do..."""
TIMES = 5
"""... if it is so often in a row: one stall is none of the callers' business."""
TICK_S = 0.2
HEAVY_BYTES = 1_000_000
"""Bodies of more than this are heavy."""
LOOK_S = 2.0

STOPPING = "stopping"


class Shedding:
    """Measures how the server is, and refuses requests accordingly.

    Args:
        in_flight: how many requests are being answered.
        max_in_flight: how many are too many.
        resident: what the server and its engines take, in bytes; asked on a thread.
        memory_limit: how much is too much, in bytes.
        on_lag: told how late the event loop was, in seconds, each time it is looked at.
    """

    def __init__(
        self,
        in_flight: Callable[[], int],
        *,
        max_in_flight: int,
        resident: Callable[[], int],
        memory_limit: int,
        on_lag: Callable[[float], None],
    ) -> None:
        self.stopping = False
        self.short_of_memory = False
        self.refused: Counter[str] = Counter()
        self._in_flight = in_flight
        self._max_in_flight = max_in_flight
        self._resident = resident
        self._memory_limit = memory_limit
        self._on_lag = on_lag
        self._used = 0
        self._lags: deque[float] = deque([0.0] * TIMES, maxlen=TIMES)
        self._lag = 0.0

    @property
    def pressure(self) -> float:
        """How much there is to do: from 1 on, it is too much."""
        return max(self._lag / LATE_S, self._in_flight() / self._max_in_flight)

    def gauges(self) -> dict[str, float]:
        """The parts of the pressure, and memory, each as a share of what is too much."""
        return {
            "event_loop": self._lag / LATE_S,
            "requests": self._in_flight() / self._max_in_flight,
            "memory": self._used / self._memory_limit,
        }

    def parts(self) -> dict[str, str]:
        """Say how the server is, for readiness."""
        refused = "requests with large bodies are refused"
        return {
            "server": STOPPING if self.stopping else "ok",
            "load": "ok"
            if (p := self.pressure) < 1
            else f"tiers up to weight {int(p)} are refused",
            "memory": refused if self.short_of_memory else "ok",
        }

    def admit(self, caller: Caller) -> None:
        """Let a request in whose caller is known.

        Raises:
            OverloadedError: there is too much to do for their tier.
        """
        if self.pressure >= caller.weight:
            self.refused["load"] += 1
            raise OverloadedError(
                f"The server has too much to do for the tier {caller.tier!r} now. Try again in a"
                " moment.",
                code="overloaded",
                retry_after=2,
            )

    def look_at(self, size: int) -> None:
        """Let a request in with a body of `size` bytes.

        Raises:
            OverloadedError: the server stops, or is short of memory.
        """
        if self.stopping:
            self.refused[STOPPING] += 1
            raise OverloadedError(
                "The server is stopping. Try again in a moment.",
                code="server_stopping",
                retry_after=1,
            )
        if self.short_of_memory and size > HEAVY_BYTES:
            self.refused["memory"] += 1
            raise OverloadedError(
                f"The server is short of memory and takes no body over {HEAVY_BYTES} bytes now. Try"
                " again in a moment.",
                code="memory_short",
                retry_after=5,
            )

    def tick(self, late_s: float) -> None:
        """Note how late the event loop was this time."""
        self._on_lag(late_s)
        self._lags.append(late_s)
        self._lag = min(self._lags)

    def weigh(self, used: int) -> None:
        """Note how much memory is taken, in bytes."""
        self._used = used
        self.short_of_memory = used > self._memory_limit

    async def keep_time(self) -> None:
        """Measure the event loop, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.tick(max(0.0, loop.time() - due))

    async def keep_weight(self) -> None:
        """Measure memory, until cancelled."""
        while True:
            self.weigh(await asyncio.to_thread(self._resident))
            await asyncio.sleep(LOOK_S)
