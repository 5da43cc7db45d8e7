"""One search in the passages' file: by meaning, by words, and both rankings fused."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from galley.stores.passages import EVERYONE, Floats, Found, Only
from galley.stores.passages_graph import Graphs
from galley.stores.passages_rows import chosen
from galley.stores.passages_schema import NUMBER_BITS, reading
from galley.stores.passages_vectors import Integers, Vectors, View
from galley.stores.passages_words import asked, score

CANDIDATES = 100
"""How many each ranking brings to the fusion."""

_OVERFETCH = 2  # of an index, for what is not shown any more
_MOST_OTHERS = 20_000  # passages that are not in an index
_K = 60
_ATTEMPTS = 100

_Scored: TypeAlias = tuple[float, int]
"""A score, and the passage that has it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What `Passages.search` is asked."""

    owner: str
    collection_ids: Sequence[str]
    text: str
    vectors: Mapping[str, Floats]
    limit: int
    only: Only | None


@dataclass(slots=True)
class _Candidate:
    """A passage that one of the rankings brought."""

    dense: float | None = None
    bm25: float | None = None
    dense_rank: int | None = None
    bm25_rank: int | None = None

    @property
    def score(self) -> float:
        ranks = (self.dense_rank, self.bm25_rank)
        return sum((_K + 1) / (_K + rank) for rank in ranks if rank is not None) / len(ranks)


def search(
    connection: sqlite3.Connection, loaded: Vectors, graphs: Graphs, question: Question
) -> list[Found]:
    """Answer `question` from what the file holds at this moment."""
    for _ in range(_ATTEMPTS):
        with reading(connection):
            views = _views(connection, loaded, question)
            if views is not None:
                return _search(connection, graphs, views, question)
    raise RuntimeError("the collection changes faster than it can be read")


@dataclass(frozen=True, slots=True)
class _Place:
    """A collection as this search sees it, with what is searched of it."""

    number: int
    model: str
    view: View
    within: NDArray[np.bool_]


def _views(
    connection: sqlite3.Connection, loaded: Vectors, question: Question
) -> list[_Place] | None:
    """Return what is to be searched; None when the file has moved on since we began to read."""
    rows = connection.execute(
        "SELECT number, model, dimensions, generation FROM collections"
        " WHERE id IN (SELECT value FROM json_each(?)) AND owner IN (?, ?)",
        (json.dumps(list(question.collection_ids)), question.owner, EVERYONE),
    ).fetchall()
    places: list[_Place] = []
    for number, model, dimensions, generation in rows:
        view = loaded.view(connection, number, dimensions, generation)
        if view is None:
            return None
        within = view.alive
        if question.only is not None:
            within = view.only(chosen(connection, question.owner, number, question.only))
        places.append(_Place(number, model, view, within))
    return places


def _search(
    connection: sqlite3.Connection, graphs: Graphs, places: Sequence[_Place], question: Question
) -> list[Found]:
    words = asked(question.text)
    dense, bm25, cosines = list[_Scored](), list[_Scored](), dict[int, float]()
    for place in places:
        view, vector = place.view, question.vectors.get(place.model)
        points = score(connection, place.number, view, words)
        with_words = np.sort(_best(np.where(place.within, points, 0), above=0))
        bm25 += _scored(view, with_words, points[with_words])
        if vector is not None:
            dense += _scored(view, *_nearest(graphs, place, vector))
            cosines |= {
                id_: cosine
                for cosine, id_ in _scored(view, with_words, view.cosines_at(vector, with_words))
            }
    best = _fuse(dense, bm25, cosines)[: question.limit]
    return _told(connection, question.owner, best)


def _nearest(graphs: Graphs, place: _Place, vector: Floats) -> tuple[Integers, Floats]:
    """Return the nearest places and their cosines."""
    view = place.view
    # Few of what the index finds may be among those that are wanted: then all of these are
    # looked at.
    graph = graphs.of(place.number, view) if place.within is view.alive else None
    if graph is not None:
        others = graph.uncovered(view)
        near = view.places(graph.nearest(vector, _OVERFETCH * CANDIDATES))
        if len(near) >= CANDIDATES and len(others) <= _MOST_OTHERS:
            near = np.sort(np.concatenate([near, others]))
            cosines = view.cosines_at(vector, near)
            best = _best(cosines, above=-np.inf)
            return near[best], cosines[best]
    cosines = view.cosines(vector, place.within)
    best = _best(cosines, above=-np.inf)
    return best, cosines[best]


def _best(scores: Floats, *, above: float) -> Integers:
    """Return the places of the best scores."""
    places: Integers = np.arange(len(scores))
    if len(scores) > CANDIDATES:
        places = np.argpartition(scores, -CANDIDATES)[-CANDIDATES:]
    return places[scores[places] > above]


def _scored(view: View, places: Integers, scores: Floats) -> list[_Scored]:
    return list(zip(scores.tolist(), view.ids(places), strict=True))


def _fuse(
    dense: list[_Scored], bm25: list[_Scored], cosines: Mapping[int, float]
) -> list[tuple[int, _Candidate]]:
    """Rank by the sum of 1 / (60 + rank); by the cosine where that is the same.

    Args:
        cosines: of those that words found.
    """
    found: dict[int, _Candidate] = {}
    for rank, (cosine, id_) in enumerate(_ranked(dense), 1):
        found[id_] = _Candidate(dense=cosine, dense_rank=rank)
    for rank, (points, id_) in enumerate(_ranked(bm25), 1):
        candidate = found.setdefault(id_, _Candidate(dense=cosines.get(id_)))
        candidate.bm25, candidate.bm25_rank = points, rank
    return sorted(found.items(), key=lambda item: (-item[1].score, -(item[1].dense or 0), item[0]))


def _ranked(scores: list[_Scored]) -> list[_Scored]:
    return sorted(scores, key=lambda item: (-item[0], item[1]))[:CANDIDATES]


def _told(
    connection: sqlite3.Connection, owner: str, best: Sequence[tuple[int, _Candidate]]
) -> list[Found]:
    rows = connection.execute(
        "SELECT p.id, c.id, d.id, v.name, v.metadata, p.start, p.end, p.text, p.context"
        " FROM passages p JOIN versions v ON v.id = p.id >> ? JOIN documents d ON d.live = v.id"
        " AND d.id = v.document JOIN collections c ON c.number = d.collection"
        " WHERE p.id IN (SELECT value FROM json_each(?)) AND d.owner IN (?, ?)",
        (NUMBER_BITS, json.dumps([id_ for id_, _ in best]), owner, EVERYONE),
    )
    told = {row[0]: row[1:] for row in rows}
    found: list[Found] = []
    for id_, why in best:
        collection_id, document_id, name, metadata, *rest = told[id_]
        found.append(
            Found(
                collection_id, document_id, name, json.loads(metadata),
                id_ & ((1 << NUMBER_BITS) - 1), *rest, score=why.score, dense=why.dense,
                bm25=why.bm25, dense_rank=why.dense_rank, bm25_rank=why.bm25_rank,
            )
        )  # fmt: skip
    return found
