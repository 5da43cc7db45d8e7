"""What was worked out before and may be used again: opaque bytes under a name, for some time.

Two ways to keep them: in this process (`cache_memory.py`), or in Redis for servers that share
them (`cache_redis.py`). A cache may forget anything at any time, and never fails: whoever asks
gets what was put under that key, or nothing.
"""

from typing import Protocol

MAX_VALUE_BYTES = 1_000_000
"""What is larger is not kept."""


class Cache(Protocol):
    """Keeps values for a while."""

    problem: str | None
    """What is the matter, None when nothing is."""

    async def get(self, key: str) -> bytes | None:
        """Return what was put under `key`; None when it is not there, too old, or out of reach.

        Never raises, and never takes longer than 50 ms.
        """
        ...

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds, if there is room; does not wait for it."""
        ...
