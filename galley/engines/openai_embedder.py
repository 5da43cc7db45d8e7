"""Sentence vectors made by any server that speaks OpenAI's embeddings API."""

import asyncio
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from galley.core.errors import BadRequestError
from galley.engines.base import Begun, Embedded, Floats
from galley.engines.bounds import BYTES_PER_TOKEN
from galley.engines.http_json import a, count
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.http_upstream import Upstream
from galley.engines.openai_http import bearer

MOST_DIMENSIONS = 65_536
_INLINE_INPUTS = 16  # the vectors of more are read on another thread


class OpenAIHttpEmbedder:
    """An embedder on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as a bearer token.
        max_tokens: the longest input that the model reads.
        headers: sent with every request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        max_tokens: int,
        headers: Mapping[str, str] | None = None,
        patience: Patience = ENDLESS,
    ) -> None:
        self.hardware = "another server"
        self.max_tokens = max_tokens
        self.dimensions = MOST_DIMENSIONS  # until the first answer tells
        self._model = model
        self._upstream = Upstream(
            url, model, key=bearer(api_key), headers=headers or {}, patience=patience
        )

    @property
    def problem(self) -> str | None:
        return self._upstream.problem

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        await self._upstream.look()

    async def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        begun: Begun | None = None,
    ) -> Embedded:
        if truncate:
            self._refuse_to_cut(inputs)
        likely = sum(map(_likely_tokens, inputs))
        if begun is not None:  # how far another server came, nobody tells
            begun.items, begun.tokens = len(inputs), likely
        body = {"model": self._model, "input": inputs, "encoding_format": "base64"}
        answer = await self._upstream.ask("/embeddings", body)
        try:
            if len(inputs) <= _INLINE_INPUTS:
                vectors = _vectors(answer, len(inputs))
            else:
                vectors = await asyncio.to_thread(_vectors, answer, len(inputs))
            tokens = count(a(dict, answer.get("usage")).get("prompt_tokens"))
        except ValueError as error:
            raise self._upstream.faults.failure(f"it sent no vectors: {error}") from error
        self.dimensions = vectors.shape[1]
        return Embedded(vectors, tokens or likely)

    async def token_starts(self, text: str) -> None:
        """Only the other server could tell."""

    async def aclose(self) -> None:
        await self._upstream.aclose()

    def _refuse_to_cut(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> None:
        """There is no common way to have an input cut; what is surely short needs none."""
        for number, given in enumerate(inputs):
            most = len(given.encode()) + 2 if isinstance(given, str) else len(given)
            if most > self.max_tokens:
                raise BadRequestError(
                    f"This model is on another server, which does not cut: input {number} may be"
                    f" longer than its {self.max_tokens} tokens. Shorten it.",
                    code="unsupported_parameter",
                    param="truncate",
                )


def _vectors(answer: dict[str, Any], wanted: int) -> Floats:
    """Read one unit vector per input, in order.

    Raises:
        ValueError: they are not there, or are no vectors.
    """
    rows: list[Floats | None] = [None] * wanted
    for place, found in enumerate(a(list, answer.get("data"))):
        index = a(dict, found).get("index", place)
        if not (isinstance(index, int) and 0 <= index < wanted):
            raise ValueError(f"an index of {index!r}")
        rows[index] = _row(found.get("embedding"))
    there = [row for row in rows if row is not None and len(row)]
    if len(there) < wanted or len({len(row) for row in there}) != 1:
        raise ValueError(f"{len(there)} of {wanted}, or of different lengths")
    vectors = np.stack(there)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("one has no length")
    return vectors / norms


def _row(found: Any) -> Floats:
    """Read base64 of little-endian floats, or a list from a server that knows no base64."""
    if isinstance(found, str):
        return np.frombuffer(b64decode(found, validate=True), "<f4")
    return np.asarray(a(list, found), np.float32)


def _likely_tokens(given: str | Sequence[int]) -> int:
    if isinstance(given, str):
        return 1 + len(given.encode()) // BYTES_PER_TOKEN
    return len(given)
