"""What documents say to a question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from galley.core.caller import Caller
from galley.core.errors import NotFoundError, OverloadedError
from galley.engines.base import Floats
from galley.services.charge import Charge
from galley.services.metering import Meter
from galley.services.models import Models
from galley.stores.passages import EVERYONE, Collection, Found, Only, Passages

_SEARCHED = 200
"""Collections that are looked through where none are named: an owner has half as many."""

SearchedBy = Literal["words", "meaning and words"]


@dataclass(frozen=True, slots=True)
class Query:
    """A question, where to look (names or ids; none: all of the owner's), and how much to find."""

    text: str
    limit: int = 5
    collections: Sequence[str] = ()
    only: Only | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Passages, the best first, and the collections that were searched, by id.

    Args:
        tokens: of the question, as a model read it.
    """

    found: Sequence[Found]
    collections: Mapping[str, Collection] = field(default_factory=dict[str, Collection])
    searched_by: SearchedBy = "words"
    tokens: int = 0

    @property
    def is_own(self) -> bool:
        """Whether what was searched is the owner's, at least a part of it."""
        return any(place.owner != EVERYONE for place in self.collections.values())


class RetrievalService:
    """Searches for an owner; with the words alone where the model that sees meaning is not there.

    Args:
        indexing: whether Galley's own documentation is still on its way.
    """

    def __init__(
        self,
        passages: Passages,
        models: Models,
        meter: Meter,
        indexing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._passages = passages
        self._models = models
        self._meter = meter
        self.indexing = indexing

    async def search(self, charge: Charge, query: Query) -> Results:
        """Find passages, as a request of its own that is booked.

        Raises:
            NotFoundError: a collection that is named does not exist.
            RateLimitError: the caller is over a limit.
        """
        caller, record = charge.caller, charge.record
        places = await self._places(caller, query.collections)
        models = sorted({place.model for place in places if self._is_loaded(place.model, caller)})
        record.model = record.served_model = models[0] if models else None
        most = len(query.text.encode()) + 2
        await self._meter.admit(
            charge, *models, prompt_tokens=most * len(models), texts=len(models)
        )
        results = await self._find(caller, query, places, models)
        record.prompt_tokens, record.units = results.tokens, len(models)
        return results

    async def find(self, caller: Caller, query: Query) -> Results:
        """Find passages, as a part of a request that is booked elsewhere; raises as `search`."""
        places = await self._places(caller, query.collections)
        models = sorted({place.model for place in places if self._is_loaded(place.model, caller)})
        return await self._find(caller, query, places, models)

    async def _find(
        self, caller: Caller, query: Query, places: Sequence[Collection], models: Sequence[str]
    ) -> Results:
        vectors: dict[str, Floats] = {}
        tokens = 0
        for name in models:
            engine = self._models.embedders(self._models.plan(name, caller))[0].engine
            try:
                seen = await engine.embed([query.text[: 8 * engine.max_tokens]], truncate=True)
            except OverloadedError:  # words are left
                continue
            vectors[name] = seen.vectors[0]
            tokens += seen.tokens
        found = await self._passages.search(
            caller.user_id,
            [place.id for place in places],
            text=query.text,
            vectors=vectors,
            limit=query.limit,
            only=query.only,
        )
        by: SearchedBy = "meaning and words" if vectors else "words"
        return Results(found, {place.id: place for place in places}, by, tokens)

    async def _places(self, caller: Caller, names: Sequence[str]) -> list[Collection]:
        """Return what is named; else the caller's own, or everyone's where there is nothing."""
        if names:
            found = [await self._passages.collection(caller.user_id, name) for name in names]
            if None in found:
                missing = names[found.index(None)]
                raise NotFoundError(
                    f"There is no collection {missing!r}. GET /v1/collections lists yours.",
                    code="collection_not_found",
                    param="collection",
                )
            return list({place.id: place for place in found if place is not None}.values())
        page = await self._passages.collections(caller.user_id, limit=_SEARCHED)
        own = [place for place in page.rows if place.owner != EVERYONE and place.documents]
        return own or [place for place in page.rows if place.owner == EVERYONE]

    def _is_loaded(self, model: str, caller: Caller) -> bool:
        try:
            return bool(self._models.embedders(self._models.plan(model, caller)))
        except (NotFoundError, OverloadedError):
            return False
