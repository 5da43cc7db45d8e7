"""What is asked of a store of passages, and how its two rankings become one.

Sources: Cormack, Clarke, Buettcher 2009, Reciprocal Rank Fusion; Robertson and Zaragoza 2009, The
Probabilistic Relevance Framework: BM25 and Beyond, with the inverse document frequency of Lucene,
which is never negative.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galley.core.errors import BadRequestError
from galley.stores.passages import Floats, Found, Only, Slice
from galley.stores.passages_ids import MAX_PASSAGES, number_of

CANDIDATES = 100
"""How many each ranking brings to the fusion."""

_K = 60
_K1, _B = 1.2, 0.75

Scored: TypeAlias = tuple[int, float]
"""A passage and its score."""


@dataclass(frozen=True, slots=True)
class Question:
    """What `Passages.search` is asked."""

    owner: str
    collection_ids: Sequence[str]
    text: str
    vectors: Mapping[str, Floats]
    limit: int
    only: Only | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Both rankings, fused.

    Args:
        cosines: of all that were compared with the question.
        points: BM25 of all that have one of its words.
        dense: places by meaning, from 1.
        bm25: places by words.
        scores: half the sum of 61 / (60 + place): 1 for the first in both.
    """

    cosines: Mapping[int, float]
    points: Mapping[int, float]
    dense: Mapping[int, int]
    bm25: Mapping[int, int]
    scores: Mapping[int, float]

    def best(self, limit: int) -> list[int]:
        """Return the best passages of both; of equal ones, the nearer first."""
        scores, cosines = self.scores, self.cosines
        order = sorted(scores, key=lambda id_: (-scores[id_], -cosines.get(id_, 0.0), id_))
        return order[:limit]

    def found(self, id_: int, row: Sequence[Any]) -> Found:
        """Say why a passage was found; `row` is what `Found` begins with, its number left out."""
        collection_id, document_id, name, metadata, *rest = row
        return Found(
            collection_id, document_id, name, json.loads(metadata), number_of(id_), *rest,
            score=self.scores[id_], dense=self.cosines.get(id_), bm25=self.points.get(id_),
            dense_rank=self.dense.get(id_), bm25_rank=self.bm25.get(id_),
        )  # fmt: skip


def fuse(dense: list[Scored], bm25: list[Scored], cosines: Mapping[int, float]) -> Ranking:
    """Join both rankings.

    Args:
        cosines: of passages that were found by words.
    """
    near, worded = _ranked(dense), _ranked(bm25)
    scores = {id_: (_K + 1) / (_K + rank) / 2 for id_, rank in near.items()}
    for id_, rank in worded.items():
        scores[id_] = scores.get(id_, 0.0) + (_K + 1) / (_K + rank) / 2
    return Ranking({**cosines, **dict(dense)}, dict(bm25), near, worded, scores)


def _ranked(scores: list[Scored]) -> dict[int, int]:
    """Return the place of each, from 1; those of equal scores in the order of their ids."""
    scores.sort(key=lambda item: (-item[1], item[0]))
    return {id_: rank for rank, (id_, _) in enumerate(scores[:CANDIDATES], 1)}


def best(scores: Floats, *, above: float) -> NDArray[np.int64]:
    """Return the places of the best scores, in no order."""
    (places,) = (scores > above).nonzero()
    if len(places) > CANDIDATES:
        places = places[np.argpartition(scores[places], -CANDIDATES)[-CANDIDATES:]]
    return places


def bm25(often: Floats, lengths: NDArray[np.uint16], *, shown: int, mean_length: float) -> Floats:
    """Return what one word adds to the score of each passage that has it.

    Args:
        often: how often each of them has it.
        lengths: how many words each has.
        shown: passages of the collection, with the word or without.
        mean_length: of these, in words.
    """
    idf = np.log1p((shown - len(often) + 0.5) / (len(often) + 0.5))
    norm = _K1 * (1 - _B + _B * lengths / np.float32(max(mean_length, 1e-9)))
    return idf * often * (_K1 + 1) / (often + norm)


def check(piece: Slice, dimensions: int, before: int) -> None:
    """Refuse passages that cannot be kept.

    Args:
        before: passages of the same document that came before them.
    Raises:
        BadRequestError: the document has too many.
        ValueError: their vectors are not what the collection's are.
    """
    shape = len(piece.passages), dimensions
    if piece.vectors.shape != shape or not np.isfinite(piece.vectors).all():
        raise ValueError(f"{piece.vectors.shape} vectors for {shape} passages, or not finite")
    if before + len(piece.passages) > MAX_PASSAGES:
        raise BadRequestError("The document has too many passages.", code="document_too_long")
