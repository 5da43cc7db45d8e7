"""Vectors that were made before, for clients that ask to keep them (`cache-control: max-age`).

A text's vector never changes; but whoever indexes a library needs each of them once, and would
push out what others use again.
"""

import struct
import time
from collections.abc import Callable

import numpy as np

from galley.core.caching import CacheControl
from galley.core.caller import Caller
from galley.core.errors import EngineTimeoutError
from galley.engines.base import Embedded
from galley.schemas.embeddings import EmbeddingRequest
from galley.services.cache_keys import exact_key
from galley.stores.cache import Cache

_HEAD = struct.Struct("<dQII")  # when it was kept, tokens, rows, dimensions


class VectorCache:
    """Finds and keeps vectors.

    Args:
        ttl_s: how long they are kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Cache, *, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._clock = clock

    async def find(
        self, caller: Caller, model: str, request: EmbeddingRequest, control: CacheControl
    ) -> Embedded | None:
        """Return what the caller was given for the same request, no older than they want.

        Raises:
            EngineTimeoutError: there is none, and only that was asked for (`only-if-cached`).
        """
        found = None
        if control.max_age_s is not None and not control.no_cache:
            value = await self._store.get(exact_key(caller.user_id, model, request))
            found = self._read(value, control.max_age_s) if value is not None else None
        if found is None and control.only_if_cached:
            raise EngineTimeoutError("These vectors are not cached.", code="not_cached")
        return found

    def keep(
        self,
        caller: Caller,
        model: str,
        request: EmbeddingRequest,
        control: CacheControl,
        made: Embedded,
    ) -> None:
        """Keep what the model made of `request`, if the client asks for it."""
        if control.max_age_s is None or control.no_store:
            return
        head = _HEAD.pack(self._clock(), made.tokens, *made.vectors.shape)
        value = head + made.vectors.astype(np.float32, copy=False).tobytes()
        self._store.put(exact_key(caller.user_id, model, request), value, self._ttl_s)

    def _read(self, value: bytes, oldest_s: int) -> Embedded | None:
        at, tokens, rows, dimensions = _HEAD.unpack_from(value)
        if self._clock() - at > oldest_s:
            return None
        floats = np.frombuffer(value, np.float32, offset=_HEAD.size)
        return Embedded(floats.reshape(rows, dimensions), tokens)
