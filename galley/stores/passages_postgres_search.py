"""One search in PostgreSQL's tables of passages: by meaning, by words, and both fused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from galley.stores import passages_postgres_words as by_words
from galley.stores.passages import Floats, Found
from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_postgres_rows import Values, chosen, fetch
from galley.stores.passages_postgres_writing import MOST_INDEXED_DIMENSIONS
from galley.stores.passages_ranking import CANDIDATES, Question, Scored, fuse
from galley.stores.passages_terms import asked

_OVERFETCH = 2  # of an index, for what is not shown

# The nearest of those that are wanted, by looking at all of them. Vectors are of length 1, so the
# inner product is the cosine.
_EXACT = """
SELECT x.id, -(x.vector <#> {vector})
FROM passage_vectors x JOIN documents d ON d.live = x.id >> {bits} AND d.collection = x.collection
WHERE x.collection = {collection} AND d.owner IN {owners} {within}
ORDER BY 2 DESC, 1 LIMIT {limit}
"""
# The index holds vectors of half precision, so what it finds is compared once more.
_INDEXED = """
WITH near AS MATERIALIZED (
  SELECT x.id, x.vector FROM passage_vectors x
  WHERE x.dimensions = {dimensions} AND x.collection = {collection}
  ORDER BY x.vector::halfvec({dimensions}) <#> {vector}::halfvec({dimensions}) LIMIT {limit}
)
SELECT x.id, -(x.vector <#> {vector})
FROM near x JOIN documents d ON d.live = x.id >> {bits}
WHERE d.collection = {collection} AND d.owner IN {owners}
"""
_COSINES = """
SELECT x.id, -(x.vector <#> {vector}) FROM passage_vectors x WHERE x.id = ANY({ids})
"""
_TOLD = """
SELECT p.id, c.id, d.id, v.name, v.metadata::text, p.start, p."end", p.text, p.context
FROM passages p JOIN document_versions v ON v.id = p.id >> {bits}
  JOIN documents d ON d.id = v.document AND d.live = v.id
  JOIN collections c ON c.number = d.collection
WHERE p.id = ANY({ids}) AND d.owner IN {owners}
"""
_COLLECTIONS = """
SELECT number, model, dimensions, passages, words FROM collections
WHERE id = ANY({ids}) AND owner IN {owners}
"""


@dataclass(frozen=True, slots=True)
class _Place:
    """A collection as this search sees it."""

    model: str
    dimensions: int
    shown: by_words.Shown


async def search(
    connection: AsyncConnection, stemmer: by_words.Stemmer, question: Question, *, graph_from: int
) -> list[Found]:
    """Answer `question`, in a transaction that sees everything as it was at its first query.

    Args:
        graph_from: passages that a collection has when the index of vectors is asked.
    """
    places = await _places(connection, question)
    numbers = [place.shown.number for place in places]
    within: list[int] | None = None
    if question.only is not None:
        within = await chosen(connection, question.owner, numbers, question.only)
    worded = await _by_words(connection, stemmer, places, question.text, within)
    dense, cosines = list[Scored](), dict[int, float]()
    for place, scored in zip(places, worded, strict=True):
        if (vector := question.vectors.get(place.model)) is None:
            continue
        dense += await _nearest(connection, place, question, vector, within, graph_from=graph_from)
        known = {id_ for id_, _ in dense}
        cosines |= await _cosines(connection, vector, [i for i, _ in scored if i not in known])
    ranking = fuse(dense, [found for scored in worded for found in scored], cosines)
    wanted = ranking.best(question.limit)
    values = Values()
    ids = values(wanted, "bigint[]")
    statement = _TOLD.format(bits=NUMBER_BITS, ids=ids, owners=values.seen_by(question.owner))
    told = {row[0]: row[1:] for row in await fetch(connection, statement, values)}
    return [ranking.found(id_, told[id_]) for id_ in wanted]


async def _places(connection: AsyncConnection, question: Question) -> list[_Place]:
    """Return those collections that have anything to be found, and that the owner sees."""
    values = Values()
    ids = values(list(question.collection_ids), "text[]")
    statement = _COLLECTIONS.format(ids=ids, owners=values.seen_by(question.owner))
    return [
        _Place(model, dimensions, by_words.Shown(number, passages, words))
        for number, model, dimensions, passages, words in await fetch(connection, statement, values)
        if passages
    ]


async def _by_words(
    connection: AsyncConnection,
    stemmer: by_words.Stemmer,
    places: Sequence[_Place],
    text: str,
    within: Sequence[int] | None,
) -> list[list[Scored]]:
    """Return the best passages by words, of each collection."""
    words = await asyncio.to_thread(asked, text)
    stems = await stemmer.stems(connection, words)
    terms = [stems[word] for word in words]
    numbers = [place.shown.number for place in places]
    scores = [by_words.Scores(place.shown) for place in places]
    for at in range(0, len(terms) if places else 0, by_words.TERMS_AT_ONCE):
        part = terms[at : at + by_words.TERMS_AT_ONCE]
        found = await by_words.find(connection, numbers, part)
        for score in scores:
            await asyncio.to_thread(score.add, part, found)
    return [score.best(within) for score in scores]


async def _nearest(
    connection: AsyncConnection,
    place: _Place,
    question: Question,
    vector: Floats,
    within: Sequence[int] | None,
    *,
    graph_from: int,
) -> list[Scored]:
    """Return the nearest passages and their cosines."""
    # Few of what the index finds may be among those that are wanted: then all of these are
    # looked at.
    indexed = place.dimensions <= MOST_INDEXED_DIMENSIONS and place.shown.passages >= graph_from
    if within is None and indexed:
        near = await _indexed(connection, place, question, vector)
        if len(near) >= min(CANDIDATES, place.shown.passages):
            return near
    values = Values()
    among = "" if within is None else f"AND d.live = ANY({values(list(within), 'bigint[]')})"
    statement = _EXACT.format(
        vector=_vector(values, vector),
        bits=NUMBER_BITS,
        collection=values(place.shown.number, "bigint"),
        owners=values.seen_by(question.owner),
        within=among,
        limit=CANDIDATES,
    )
    return [(id_, cosine) for id_, cosine in await fetch(connection, statement, values)]


async def _indexed(
    connection: AsyncConnection, place: _Place, question: Question, vector: Floats
) -> list[Scored]:
    """Ask the index; it goes on until it has found enough that is of this collection."""
    limit = _OVERFETCH * CANDIDATES
    # Without sorting, the order can come from the index alone. All of it ends with the transaction.
    await connection.exec_driver_sql(
        "SELECT set_config('enable_sort', 'off', true), set_config('hnsw.ef_search', $1, true),"
        " set_config('hnsw.iterative_scan', 'relaxed_order', true)",
        (str(limit),),
    )
    values = Values()
    statement = _INDEXED.format(
        dimensions=place.dimensions,
        vector=_vector(values, vector),
        bits=NUMBER_BITS,
        collection=values(place.shown.number, "bigint"),
        owners=values.seen_by(question.owner),
        limit=limit,
    )
    rows = await fetch(connection, statement, values)
    return sorted(((id_, cosine) for id_, cosine in rows), key=lambda row: (-row[1], row[0]))[
        :CANDIDATES
    ]


async def _cosines(
    connection: AsyncConnection, vector: Floats, ids: Sequence[int]
) -> dict[int, float]:
    """Return the cosine of each passage to `vector`."""
    if not ids:
        return {}
    values = Values()
    statement = _COSINES.format(vector=_vector(values, vector), ids=values(list(ids), "bigint[]"))
    return {row[0]: row[1] for row in await fetch(connection, statement, values)}


def _vector(values: Values, vector: Floats) -> str:
    return f"{values(vector.tolist(), 'real[]')}::vector"
