"""Vectors for texts."""

import asyncio
from collections.abc import Sequence

import numpy as np

from galley.core.errors import BadRequestError
from galley.engines.base import Begun, Floats
from galley.schemas.embeddings import EmbeddingRequest
from galley.services.charge import Charge
from galley.services.metering import Meter
from galley.services.models import Models


class EmbeddingService:
    """From texts to unit vectors."""

    def __init__(self, models: Models, meter: Meter) -> None:
        self._models = models
        self._meter = meter

    async def embed(self, charge: Charge, request: EmbeddingRequest) -> Floats:
        """Return one row per input, of L2 norm 1.

        Raises:
            NotFoundError: no such model.
            RateLimitError: the caller is over a limit.
            BadRequestError: an input is too long, or more dimensions than the model has.
        """
        record = charge.record
        record.model = request.model
        record.ignored_fields = ",".join(request.ignored) or None
        model = self._models.embedder(request.model, charge.caller)
        record.served_model = model.name
        if request.dimensions is not None and request.dimensions > model.engine.dimensions:
            raise BadRequestError(
                f"{model.name} makes vectors of {model.engine.dimensions} dimensions; "
                f"{request.dimensions} were asked for.",
                code="invalid_dimensions",
                param="dimensions",
            )
        most = model.engine.max_tokens
        await self._meter.admit(
            charge,
            model.name,
            prompt_tokens=sum(min(_most_tokens(given), most) for given in request.inputs),
            texts=len(request.inputs),
        )
        begun = Begun()
        try:
            found = await model.engine.embed(request.inputs, truncate=request.truncate, begun=begun)
        except asyncio.CancelledError:
            record.prompt_tokens, record.units = begun.tokens, begun.items
            raise
        record.prompt_tokens, record.units = found.tokens, len(request.inputs)
        return _shortened(found.vectors, request.dimensions)


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
