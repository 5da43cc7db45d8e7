"""A cache in this process: so many bytes, and what was not asked for the longest goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable

from galley.stores.cache import MAX_VALUE_BYTES

# What a value costs besides its own bytes: its key, its time, and their places.
_OVERHEAD_BYTES = 400


class MemoryCache:
    """Keeps values in memory.

    Args:
        max_bytes: of all values together, with what it takes to keep them.
        clock: seconds; only differences count.
    """

    problem: str | None = None

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        found = self._kept.get(key)
        if found is None:
            return None
        value, ends = found
        if ends <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return value

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        if key in self._kept:
            self._drop(key)
        if ttl_s <= 0 or len(value) > min(MAX_VALUE_BYTES, self._max_bytes - _OVERHEAD_BYTES):
            return
        self._kept[key] = value, self._clock() + ttl_s
        self.bytes += len(value) + _OVERHEAD_BYTES
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        value, _ = self._kept.pop(key)
        self.bytes -= len(value) + _OVERHEAD_BYTES
