"""Vectors for texts."""

import asyncio
from collections.abc import Sequence

import numpy as np

from galley.core.errors import BadRequestError
from galley.core.tracing import step
from galley.engines.base import Begun, Embedded, Embedder, Floats
from galley.schemas.embeddings import EmbeddingRequest
from galley.services.charge import Charge
from galley.services.dispatch import Dispatch
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.vector_cache import VectorCache


class EmbeddingService:
    """From texts to unit vectors."""

    def __init__(
        self, models: Models, meter: Meter, dispatch: Dispatch, cache: VectorCache
    ) -> None:
        self._cache = cache
        self._models = models
        self._meter = meter
        self._dispatch = dispatch

    async def embed(self, charge: Charge, request: EmbeddingRequest) -> Embedded:
        """Return one row per input, of L2 norm 1.

        Raises:
            NotFoundError: no such model.
            RateLimitError: the caller is over a limit.
            BadRequestError: an input is too long, or more dimensions than the model has.
        """
        record = charge.record
        record.model = request.model
        record.ignored_fields = ",".join(request.ignored) or None
        plan = self._models.plan(request.model, charge.caller)
        models = self._models.embedders(plan)
        model, record.route, record.arm = models[0], plan.route, plan.arm
        record.served_model = model.name
        _check_dimensions(model.name, model.engine.dimensions, request.dimensions)
        caller, control = charge.caller, charge.cache_control
        with step("cache"):
            known = await self._cache.find(caller, model.name, request, control)
        if known:
            record.cache = "exact"
            await self._meter.admit(charge, model.name)
            return known
        most = max(model.engine.max_tokens for model in models)
        await self._meter.admit(
            charge,
            *(model.name for model in models),
            prompt_tokens=sum(min(_most_tokens(given), most) for given in request.inputs),
            texts=len(request.inputs),
        )
        found = await self._dispatch.call(
            models,
            charge.attempts,
            lambda model, replica: self._ask(charge, model.name, replica.engine, request),
        )
        made = Embedded(_shortened(found.vectors, request.dimensions), found.tokens)
        if record.served_model == model.name:
            self._cache.keep(caller, model.name, request, control, made)
        return made

    async def _ask(
        self, charge: Charge, model: str, engine: Embedder, request: EmbeddingRequest
    ) -> Embedded:
        await self._meter.enter(charge, model)
        record, begun = charge.record, Begun()
        try:
            with step("engine"):
                found = await engine.embed(request.inputs, truncate=request.truncate, begun=begun)
        except asyncio.CancelledError:
            record.prompt_tokens, record.units = begun.tokens, begun.items
            raise
        record.prompt_tokens, record.units = found.tokens, len(request.inputs)
        # Another server's first answer is the first to tell how many there are.
        _check_dimensions(model, found.vectors.shape[1], request.dimensions)
        return found


def _check_dimensions(model: str, made: int, asked: int | None) -> None:
    if asked is not None and asked > made:
        raise BadRequestError(
            f"{model} makes vectors of {made} dimensions; {asked} were asked for.",
            code="invalid_dimensions",
            param="dimensions",
        )


def _most_tokens(given: str | Sequence[int]) -> int:
    """A token is a byte or more, but for the two that are put around a text."""
    return len(given.encode()) + 2 if isinstance(given, str) else len(given)


def _shortened(vectors: Floats, dimensions: int | None) -> Floats:
    """Keep the first `dimensions` of each row and bring it back to unit length."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.maximum(norms, np.finfo(np.float32).tiny))
