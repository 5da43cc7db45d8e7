"""One search in the passages' file: by meaning, by words, and both rankings fused."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galley.stores.passages import EVERYONE, Floats, Found
from galley.stores.passages_graph import Graphs
from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_ranking import CANDIDATES, Question, Scored, best, fuse
from galley.stores.passages_rows import chosen
from galley.stores.passages_schema import reading
from galley.stores.passages_terms import asked
from galley.stores.passages_vectors import Integers, Vectors, View
from galley.stores.passages_words import score

_OVERFETCH = 2  # of an index, for what is not shown any more
_MOST_OTHERS = 20_000  # passages that are not in an index
_ATTEMPTS = 100

# The joins are in the order in which they are to be done: few passages, then what they are of.
_PASSAGES = f"""
SELECT p.id, c.id, d.id, v.name, v.metadata, p.start, p.end, p.text, p.context
FROM json_each(?) j CROSS JOIN passages p ON p.id = j.value
  CROSS JOIN versions v ON v.id = p.id >> {NUMBER_BITS}
  CROSS JOIN documents d ON d.id = v.document AND d.live = v.id
  CROSS JOIN collections c ON c.number = d.collection
WHERE d.owner IN (?, ?)
"""  # noqa: S608 - of a constant; values are bound


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
        " WHERE id IN (SELECT value FROM json_each(?)) AND +owner IN (?, ?)",
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
    dense, worded, cosines = list[Scored](), list[Scored](), dict[int, float]()
    for place in places:
        view, vector = place.view, question.vectors.get(place.model)
        points = score(connection, place.number, view, words)
        with_words = np.sort(best(np.where(place.within, points, 0), above=0))
        worded += _scored(view, with_words, points[with_words])
        if vector is not None:
            dense += _scored(view, *_nearest(graphs, place, vector))
            theirs = view.cosines_at(vector, with_words).tolist()
            cosines |= zip(view.ids(with_words), theirs, strict=True)
    ranking = fuse(dense, worded, cosines)
    wanted = ranking.best(question.limit)
    rows = connection.execute(_PASSAGES, (json.dumps(wanted), question.owner, EVERYONE))
    told = {row[0]: row[1:] for row in rows}
    return [ranking.found(id_, told[id_]) for id_ in wanted]


def _nearest(graphs: Graphs, place: _Place, vector: Floats) -> tuple[Integers, Floats]:
    """Return the nearest places and their cosines."""
    view = place.view
    # Few of what the index finds may be among those that are wanted: then all of these are
    # looked at.
    known = graphs.of(place.number, view) if place.within is view.alive else None
    if known is not None:
        graph, others = known
        near = view.places(graph.nearest(vector, _OVERFETCH * CANDIDATES))
        if len(near) >= CANDIDATES and len(others) <= _MOST_OTHERS:
            near = np.sort(np.concatenate([near, others]))
            cosines = view.cosines_at(vector, near)
            places = best(cosines, above=-np.inf)
            return near[places], cosines[places]
    cosines = view.cosines(vector, place.within)
    places = best(cosines, above=-np.inf)
    return places, cosines[places]


def _scored(view: View, places: Integers, scores: Floats) -> list[Scored]:
    return list(zip(view.ids(places), scores.tolist(), strict=True))
