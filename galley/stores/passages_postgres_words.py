"""Finds passages by words on PostgreSQL: BM25 over an index of our own.

PostgreSQL's own ranking knows nothing of how rare a word is. So there is a row for each word of
some passages that were written together, which says where it is, how often, and how long those
are; the formula is worked out here, over those that are shown. PostgreSQL stems (Porter).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from galley.stores.passages_ids import NUMBER_BITS
from galley.stores.passages_postgres_rows import Values, fetch
from galley.stores.passages_ranking import Scored, best, bm25

_HIT = Struct("<qHH")
_HITS = np.dtype([("id", "<i8"), ("count", "<u2"), ("length", "<u2")])
_MOST = 65_535  # that a passage's length, and a word's count in it, are told apart
_STEMS_KEPT = 200_000

TERMS_AT_ONCE = 8
"""Words that are looked up together; of large collections, each may be megabytes."""

# Of each word all that is shown, joined: a row for each passage would cost more than the rest.
_FOUND = """
SELECT w.collection, w.term, string_agg(w.hits, ''::bytea)
FROM passage_words w JOIN documents d ON d.live = w.id >> {bits} AND d.collection = w.collection
WHERE w.collection = ANY({collections}) AND w.term = ANY({terms})
GROUP BY w.collection, w.term
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """How much of a collection is shown."""

    number: int
    passages: int
    words: int


class Stemmer:
    """Knows the stems of words; PostgreSQL is asked once for each.

    Args:
        most: words that are kept in mind.
    """

    def __init__(self, most: int = _STEMS_KEPT) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    async def stems(self, connection: AsyncConnection, words: Iterable[str]) -> dict[str, str]:
        """Return the stem of each word."""
        wanted = set(words)
        # Taken out at once: others may have all forgotten while PostgreSQL is asked.
        found = {word: self._known[word] for word in wanted & self._known.keys()}
        if missing := list(wanted - found.keys()):
            values = Values()
            statement = (
                "SELECT w, (ts_lexize('galley_porter', w))[1]"  # noqa: S608 - values are bound
                f" FROM unnest({values(missing, 'text[]')}) w"
            )
            fresh = {
                word: stem or word for word, stem in await fetch(connection, statement, values)
            }
            if len(self._known) + len(fresh) > self._most:
                self._known = {}
            self._known |= fresh
            found |= fresh
        return found


def index(begin: int, texts: Sequence[Sequence[str]], stems: Mapping[str, str]) -> dict[str, bytes]:
    """Return what is to be kept under each stem of passages.

    Args:
        begin: the id of the first passage.
        texts: the words of each.
    """
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for id_, words in enumerate(texts, begin):
        length = length_of(words)
        for term, count in Counter(stems[word] for word in words).items():
            found[term].append(_HIT.pack(id_, min(count, _MOST), length))
    return {term: b"".join(hits) for term, hits in found.items()}


def length_of(words: Sequence[str]) -> int:
    """Return how long a passage of `words` is held to be."""
    return min(len(words), _MOST)


async def find(
    connection: AsyncConnection, collections: Sequence[int], terms: Iterable[str]
) -> dict[tuple[int, str], bytes]:
    """Return where each word is in each collection; what is not shown is left out."""
    values = Values()
    statement = _FOUND.format(
        bits=NUMBER_BITS,
        collections=values(list(collections), "bigint[]"),
        terms=values(list(set(terms)), "text[]"),
    )
    rows = await fetch(connection, statement, values)
    return {(collection, term): hits for collection, term, hits in rows}


class Scores:
    """BM25 of the passages of a collection, word by word."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._ids = np.zeros(0, np.int64)
        self._points: NDArray[np.float64] = np.zeros(0, np.float64)

    def add(self, terms: Sequence[str], found: Mapping[tuple[int, str], bytes]) -> None:
        """Add what these words of the question come to."""
        shown = self._shown
        ids: list[NDArray[np.int64]] = [self._ids]
        points: list[NDArray[np.float32 | np.float64]] = [self._points]
        for term in terms:
            hits = np.frombuffer(found.get((shown.number, term), b""), _HITS)
            if len(hits):
                often, mean = hits["count"].astype(np.float32), shown.words / shown.passages
                ids.append(hits["id"])
                points.append(bm25(often, hits["length"], shown=shown.passages, mean_length=mean))
        self._ids, place = np.unique(np.concatenate(ids), return_inverse=True)
        sums = np.bincount(place, np.concatenate(points), len(self._ids))
        self._points = sums.astype(np.float64, copy=False)

    def best(self, within: Sequence[int] | None) -> list[Scored]:
        """Return the best passages.

        Args:
            within: versions to keep to; None is all.
        """
        points = self._points.astype(np.float32)
        if within is not None:
            points[~np.isin(self._ids >> NUMBER_BITS, list(within))] = 0
        places = best(points, above=0)
        return list(zip(self._ids[places].tolist(), points[places].tolist(), strict=True))
