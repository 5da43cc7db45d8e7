"""From a document's text to passages with vectors, booked like any other use of a model."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from galley.engines.base import Begun, Embedder, Floats
from galley.services.charge import Charge
from galley.services.chunking import approximate_starts, passages
from galley.services.dispatch import Attempt, Dispatch
from galley.services.extraction import has_headings
from galley.services.metering import Meter
from galley.services.models import Loaded, Models
from galley.stores.passages import Collection, Draft, Passage, Slice

SLICE_PASSAGES = 32
"""Passages that are embedded, and written, at a time."""

Embed = Callable[[list[str]], Awaitable[Floats]]
Note = Callable[[int], Awaitable[None]]
"""Told up to which character of its text a document is done."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A document's passages, and whether it was their model's own tokenizer that counted.

    Args:
        tokens: the most that reading them can take.
    """

    passages: Sequence[Passage]
    is_exact: bool
    tokens: int


class Indexer:
    """Makes the passages of documents, with the model of their collection."""

    def __init__(self, models: Models, meter: Meter, dispatch: Dispatch) -> None:
        self._models = models
        self._meter = meter
        self._dispatch = dispatch

    async def admit(self, charge: Charge, collection: Collection, cut: Cut) -> None:
        """Let a document in, with what it takes at the most reserved.

        Raises:
            NotFoundError: the collection's model is not there any more.
            RateLimitError: the caller is over a limit.
        """
        model = self._model(charge, collection)
        charge.record.model = charge.record.served_model = model.name
        await self._meter.admit(
            charge, model.name, prompt_tokens=cut.tokens, texts=len(cut.passages)
        )

    async def admit_only(self, charge: Charge, collection: Collection) -> None:
        """Let a document in that is indexed later, and booked then; raises as `admit`."""
        await self.admit(charge, collection, Cut((), is_exact=True, tokens=0))

    async def cut(self, charge: Charge, collection: Collection, draft: Draft) -> Cut:
        """Cut a document as the collection's model reads it; raises as `admit`."""
        return await cut(self._model(charge, collection).engine, draft)

    async def slices(
        self, charge: Charge, collection: Collection, cut: Cut, note: Note | None = None
    ) -> AsyncGenerator[Slice]:
        """Yield all that `cut` has with vectors; the charge is settled before the end.

        Raises:
            EngineError: the model failed, and nothing was billed.
        """
        model, record = self._model(charge, collection), charge.record

        async def embed(texts: list[str]) -> Floats:
            attempts: list[Attempt] = []
            try:
                return await self._dispatch.call(
                    [model], attempts, lambda _, r: ask(r.engine, texts)
                )
            finally:
                charge.attempts[:] = attempts

        async def ask(engine: Embedder, texts: list[str]) -> Floats:
            begun = Begun()
            try:
                found = await engine.embed(texts, truncate=cut.is_exact, begun=begun)
            except asyncio.CancelledError:
                record.prompt_tokens += begun.tokens
                record.units += begun.items
                raise
            record.prompt_tokens += found.tokens
            record.units += len(texts)
            return found.vectors

        await self._meter.enter(charge, model.name)
        async for made in embedded(cut.passages, embed):
            yield made
            if note is not None:
                await note(made.passages[-1].end)
        # What is seen is paid for: the version is put in its place after this.
        await self._meter.settle(charge)

    def _model(self, charge: Charge, collection: Collection) -> Loaded[Embedder]:
        plan = self._models.plan(collection.model, charge.caller)
        return self._models.embedders(plan)[0]


async def cut(engine: Embedder, draft: Draft) -> Cut:
    """Cut a document as `engine` reads it."""
    starts = await engine.token_starts(draft.text)
    counted = approximate_starts(draft.text) if starts is None else starts
    made = await asyncio.to_thread(
        passages,
        draft.text,
        counted,
        title=title_of(draft.name),
        has_headings=has_headings(draft.media_type),
        max_tokens=engine.max_tokens,
    )
    most = sum(min(len(_read_as(passage)) + 2, engine.max_tokens) for passage in made)
    return Cut(made, starts is not None, most)


async def embedded(
    made: Sequence[Passage], embed: Embed, *, size: int = SLICE_PASSAGES
) -> AsyncGenerator[Slice]:
    """Yield passages with their vectors; the next ones are made while one slice is written."""
    parts = [made[begin : begin + size] for begin in range(0, len(made), size)]
    ahead: asyncio.Task[Floats] | None = None

    def begin(number: int) -> "asyncio.Task[Floats] | None":
        if number >= len(parts):
            return None
        return asyncio.ensure_future(_vectors(embed, parts[number]))

    try:
        ahead = begin(0)
        for number, part in enumerate(parts):
            assert ahead is not None  # noqa: S101 - there is one for each part
            vectors = await ahead
            ahead = begin(number + 1)
            yield Slice(part, vectors)
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


async def _vectors(embed: Embed, part: Sequence[Passage]) -> Floats:
    return await embed([_read_as(passage) for passage in part])


def _read_as(passage: Passage) -> str:
    """What the model reads of a passage: it makes little of three words without their heading."""
    return f"{passage.context}\n{passage.text}" if passage.context else passage.text


def title_of(name: str) -> str:
    """Words out of a document's name: no suffix, no numbering, no dashes."""
    words = PurePath(name).stem.replace("-", " ").replace("_", " ").split()
    plain = words[1:] if words and words[0].isdigit() else words
    return " ".join(plain or words)
