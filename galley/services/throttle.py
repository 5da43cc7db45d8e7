"""Who failed too often has to wait."""

import time
from collections import deque
from collections.abc import Callable

from galley.core.errors import RateLimitError

WINDOW_S = 300.0
MOST_REMEMBERED = 10_000


class Throttle:
    """Counts failed attempts by whatever names the one who tries.

    An attempt counts as failed until it has succeeded, so that many at once get no further than
    one after the other. Only so many names are remembered; beyond, the one that is longest
    without an attempt is forgotten.

    Args:
        most: failures within five minutes; then it takes waiting.
        clock: seconds.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._attempts: dict[str, deque[float]] = {}

    def attempt(self, name: str) -> None:
        """Count an attempt.

        Raises:
            RateLimitError: too many have failed.
        """
        now = self._clock()
        times = self._attempts.pop(name, None) or deque[float]()
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        self._attempts[name] = times
        if len(times) >= self._most:
            raise RateLimitError(
                "Too many failed logins. Wait before you try again.",
                code="too_many_logins",
                retry_after=times[0] + WINDOW_S - now,
            )
        times.append(now)
        if len(self._attempts) > MOST_REMEMBERED:
            del self._attempts[next(iter(self._attempts))]

    def take_back(self, name: str) -> None:
        """Do not count the last attempt: it succeeded."""
        if times := self._attempts.get(name):
            times.pop()

    def forgive(self, name: str) -> None:
        """Forget every attempt."""
        self._attempts.pop(name, None)
