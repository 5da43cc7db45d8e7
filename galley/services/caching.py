"""Answers that were given before: the same request again, or the same question in other words.

What is found is the very pieces of that answer, in their order. Nobody finds another's answers,
unless an admin shares them on a route.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import orjson

from galley.core.caching import CacheControl, CacheSettings
from galley.core.caller import Caller
from galley.core.errors import EngineTimeoutError, GalleyError
from galley.engines.base import Embedder
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, ToolCall, Usage
from galley.services.cache_keys import NOTHING, Question, exact_key, question
from galley.stores.cache import MAX_VALUE_BYTES, Cache

THRESHOLD = 0.85
"""How alike two questions are at least, as the cosine of their vectors, besides their words."""

AGREEMENT = 0.9
"""The same for two answers that agree."""

# A piece as it is kept has this many bytes besides its text, or fewer.
_PIECE_BYTES = 60

TextRequest = ChatRequest | CompletionRequest
HitKind = Literal["exact", "semantic"]
_FIELDS = tuple(field.name for field in fields(Delta))


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that was given before, `age_s` seconds ago."""

    kind: HitKind
    deltas: list[Delta]
    age_s: float


@dataclass(frozen=True, slots=True)
class _Kept:
    at: float
    text: str
    deltas: list[Delta]


class AnswerCache:
    """Finds and keeps answers.

    Args:
        embedder: gives the model that compares questions; None while there is none.
        ttl_s: how long answers are kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Cache,
        embedder: Callable[[], Embedder | None],
        *,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.ttl_s = ttl_s
        self.clock = clock
        self.counts: Counter[str] = Counter()
        """How often: exact, semantic, miss, shadow_agrees, shadow_differs."""
        self._embedder = embedder

    def look(
        self,
        caller: Caller,
        model: str,
        request: TextRequest,
        control: CacheControl,
        settings: CacheSettings,
        passed: Mapping[str, Any] = NOTHING,
    ) -> "Lookup | None":
        """Begin with a request; None when nothing of it may come from here, or be kept.

        Kept are answers that would be the same again (temperature 0, or a seed), those that the
        client asks to keep (`max-age`), and those of routes that answer by meaning.

        Args:
            model: the one that serves it, by its own name.
            request: as the model gets it, its defaults filled in.
            passed: what is sent on besides.
        """
        same_again = request.temperature == 0 or request.seed is not None
        exact = settings.exact and (same_again or control.max_age_s is not None)
        if not (exact or settings.semantic != "off" or control.only_if_cached):
            return None
        # Every id is a UUID, so nobody is called like this.
        owner = "everybody" if settings.shared else caller.user_id
        asked = question(owner, model, request, passed) if settings.semantic != "off" else None
        return Lookup(
            self,
            model,
            exact_key(owner, model, request, passed),
            asked,
            control,
            choices=request.choices,
            exact=exact or settings.semantic == "on",
            shadow=settings.semantic == "shadow",
        )

    async def alike(self, one: str, other: str) -> float:
        """How alike two texts are, 1 at most; 0 when nobody can say."""
        if one == other:
            return 1.0
        embedder = self._embedder()
        if embedder is None or not (one and other):
            return 0.0
        try:
            vectors = (await embedder.embed([one, other], truncate=True)).vectors
        except GalleyError:  # it is busy or on its way out; the answer can be made anew
            return 0.0
        return float(np.dot(vectors[0], vectors[1]))


class Lookup:
    """One request's dealings with the cache: `find`, else `add` every piece, and `keep`."""

    def __init__(
        self,
        cache: AnswerCache,
        model: str,
        key: str,
        asked: Question | None,
        control: CacheControl,
        *,
        choices: int,
        exact: bool,
        shadow: bool,
    ) -> None:
        self._cache = cache
        self._model = model
        self._key = key
        self._asked = asked
        self._control = control
        self._choices = choices
        self._exact = exact
        self._shadow = shadow
        self._would_have: _Kept | None = None
        self._pieces: list[Delta] = []
        self._bytes = 0

    async def find(self) -> Hit | None:
        """Return the answer, where there is one that is welcome.

        Raises:
            EngineTimeoutError: there is none, and only that was asked for (`only-if-cached`).
        """
        found = None if self._control.no_cache else await self._found()
        if found is None and self._control.only_if_cached:
            raise EngineTimeoutError("No answer to this request is cached.", code="not_cached")
        self._cache.counts[found.kind if found else "miss"] += 1
        return found

    def add(self, pieces: Sequence[Delta]) -> None:
        """Remember pieces of the answer that is being made."""
        self._bytes += sum(
            _PIECE_BYTES + len(delta.text) + len(delta.reasoning) for delta in pieces
        )
        if self._bytes <= MAX_VALUE_BYTES:
            self._pieces += pieces

    async def keep(self, model: str) -> None:
        """Keep the answer, if all of it came, and from the model that it was looked for under.

        Args:
            model: the one that made it; another one, when a route fell back.
        """
        if model != self._model or not self._whole():
            return
        if self._would_have is not None:
            agree = await self._cache.alike(_text(self._would_have.deltas), _text(self._pieces))
            self._cache.counts["shadow_agrees" if agree >= AGREEMENT else "shadow_differs"] += 1
        if self._control.no_store:
            return
        store, ttl_s = self._cache.store, self._cache.ttl_s
        text = self._asked.text if self._asked else ""
        value = _packed(_Kept(self._cache.clock(), text, self._pieces))
        if self._exact:
            store.put(self._key, value, ttl_s)
        if self._asked is not None:
            store.put(self._asked.key, value, ttl_s)

    async def _found(self) -> Hit | None:
        if self._exact and (kept := await self._read(self._key)) is not None:
            return self._hit("exact", kept)
        if self._asked is None:
            return None
        kept = await self._read(self._asked.key)
        if kept is None or await self._cache.alike(self._asked.text, kept.text) < THRESHOLD:
            return None
        if self._shadow:
            self._would_have = kept
            return None
        return self._hit("semantic", kept)

    async def _read(self, key: str) -> _Kept | None:
        """Return what is kept under `key`, if it is fresh enough."""
        value = await self._cache.store.get(key)
        kept = _unpacked(value) if value is not None else None
        if kept is None:
            return None
        oldest = self._control.max_age_s
        fresh = self._age_s(kept) <= (math.inf if oldest is None else oldest)
        return kept if fresh else None

    def _hit(self, kind: HitKind, kept: _Kept) -> Hit:
        return Hit(kind, kept.deltas, self._age_s(kept))

    def _age_s(self, kept: _Kept) -> float:
        return max(0.0, self._cache.clock() - kept.at)

    def _whole(self) -> bool:
        ended = {delta.index for delta in self._pieces if delta.finish_reason is not None}
        return len(ended) == self._choices and self._bytes <= MAX_VALUE_BYTES


def _text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _packed(kept: _Kept) -> bytes:
    """Write it as JSON, without what is as it always is."""
    pieces = [
        {
            name: value
            for name in _FIELDS
            if (value := getattr(delta, name)) not in (0, "", None, [])
        }
        for delta in kept.deltas
    ]
    return orjson.dumps({"at": kept.at, "text": kept.text, "deltas": pieces})


def _unpacked(value: bytes) -> _Kept | None:
    """Read what `_packed` wrote; None for what another version did."""
    try:
        told = orjson.loads(value)
        return _Kept(told["at"], told["text"], [_delta(piece) for piece in told["deltas"]])
    except (ValueError, KeyError, TypeError):
        return None


def _delta(piece: dict[str, Any]) -> Delta:
    if "tool_calls" in piece:
        piece["tool_calls"] = [ToolCall(**call) for call in piece["tool_calls"]]
    if "usage" in piece:
        piece["usage"] = Usage(**piece["usage"])
    return Delta(**piece)
