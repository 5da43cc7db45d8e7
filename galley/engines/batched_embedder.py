"""What all sentence encoders here share: tokenising, batching, and unit vectors in order."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from galley.core.errors import OverloadedError
from galley.engines.base import Begun, Embedded, Floats
from galley.engines.batching import Batcher
from galley.engines.sentence_files import WordPieces

Rows = Sequence[Sequence[int]]
"""Token ids, special tokens included."""

# Less text than this is tokenised sooner than another thread is woken.
_INLINE_CHARACTERS = 2_000


class BatchedEmbedder:
    """An `Embedder` around a model that turns tokens into vectors of any length.

    Args:
        vectors: the model: rows of about one length to a vector each; called on threads of its
            own.
        limit: the most tokens in one call of the batcher.
        rows: the most rows in one call of `vectors`.
        threads: how many calls may run at the same time.
    """

    problem: str | None = None

    def __init__(
        self,
        vectors: Callable[[Rows], Floats],
        pieces: WordPieces,
        *,
        hardware: str,
        limit: int,
        rows: int,
        threads: int,
    ) -> None:
        self.hardware = hardware
        self.max_tokens = pieces.max_tokens
        self._pieces = pieces
        self._rows = rows
        self._vectors = vectors
        self.dimensions = vectors([[pieces.padding]]).shape[1]
        self._tokenising = ThreadPoolExecutor(2, "galley-tokenise")
        self._batcher: Batcher[Sequence[int]] = Batcher(
            self._unit_vectors, name="galley-embed", limit=limit, weigh=len, threads=threads
        )

    async def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        begun: Begun | None = None,
    ) -> Embedded:
        if self.problem:
            raise OverloadedError("The model is shut down.")
        if sum(map(len, inputs)) <= _INLINE_CHARACTERS:
            rows = self._pieces.rows(inputs, truncate=truncate)
        else:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._tokenising, lambda: self._pieces.rows(inputs, truncate=truncate)
            )
        # Neighbours of one length share a run of the model, with nothing to pad.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batched = await self._batcher([rows[i] for i in order], begun)
        vectors = np.empty_like(batched.rows)
        vectors[order] = batched.rows
        return Embedded(vectors, sum(map(len, rows)))

    async def token_starts(self, text: str) -> NDArray[np.int32]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenising, self._pieces.starts, text)

    async def aclose(self) -> None:
        self.problem = "shut down"
        self._tokenising.shutdown(wait=False)
        await self._batcher.close()

    def _unit_vectors(self, rows: Rows) -> Floats:
        """Compute one call of the batcher, in as many runs as the lengths ask for."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        groups = _groups([len(rows[i]) for i in order], self._rows)
        parts = [self._vectors([rows[i] for i in order[group]]) for group in groups]
        vectors = np.empty((len(rows), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)


def padded(rows: Rows, padding: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids at one length, and which of them are the rows' own."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), padding, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask


def _groups(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Cut sorted lengths into runs of at most `most` in which little has to be padded."""
    start = 0
    for end, length in enumerate(lengths):
        if end - start == most or length > 2 * max(lengths[start], 8):
            yield slice(start, end)
            start = end
    yield slice(start, len(lengths))
