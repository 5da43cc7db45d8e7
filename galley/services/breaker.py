"""A breaker in front of a server that may be down: nobody waits for what is known to fail.

closed ──(half of the last calls failed)──▶ open ──(a pause)──▶ half open: one call goes through
   ▲                                          ▲                      │
   └──────────────(it began to answer)────────┼──────────────────────┤
                                              └────(it failed)───────┘

Source: Nygard, Release It!, second edition, 2018, "Circuit Breaker".
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]

REMEMBERED = 20
"""Calls that are judged by, the latest."""
MEMORY_S = 30.0
FAILURES = 5
"""Fewer than these open nothing."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0


class Breaker:
    """Knows how one server did lately. Only its own failures count, not those of requests.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)
        self._pause_s = FIRST_PAUSE_S
        self._closed = True
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._closed:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def admits(self) -> bool:
        """Whether a call may begin."""
        return self._closed or (not self._probing and self._clock() >= self._open_until)

    @property
    def admits_in_s(self) -> float:
        """Seconds until it is worth asking again."""
        return 0.0 if self._closed else max(0.0, self._open_until - self._clock())

    def begin(self) -> None:
        """A call begins that was admitted."""
        self._probing = not self._closed

    def answered(self) -> None:
        """The first piece of an answer came."""
        if not self._closed:
            self._closed, self._probing = True, False
            self._pause_s = FIRST_PAUSE_S
            self._calls.clear()

    def succeeded(self) -> None:
        """An answer came whole."""
        self._calls.append((self._clock(), True))

    def failed(self) -> None:
        """A call failed, by the server's fault."""
        now = self._clock()
        self._calls.append((now, False))
        if self._closed:
            lately = [good for at, good in self._calls if now - at < MEMORY_S]
            failures = lately.count(False)
            if failures >= FAILURES and 2 * failures >= len(lately):
                self._open(now)
        elif self._probing:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._open(now)

    def left(self) -> None:
        """A call ended that says nothing about the server."""
        self._probing = False

    def _open(self, now: float) -> None:
        self._closed, self._probing = False, False
        self._open_until = now + self._pause_s
