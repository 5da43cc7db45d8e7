"""Finds passages by words: BM25 over SQLite's full text index.

FTS5's own `bm25()` counts over all owners: what others wrote would move an owner's ranking, show
through in its scores, and cost everybody time. So every word is indexed under the number of its
collection, FTS5 tells which passages have it, and the formula is worked out here, over those that
are shown. FTS5 splits and stems (Porter); as it keeps no counts, a word that occurs twice or four
times in a passage is indexed under a second or third name as well.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable, Sequence

import numpy as np

from galley.stores.passages import Floats
from galley.stores.passages_ranking import bm25
from galley.stores.passages_vectors import Integers, View

# How often a word occurs at least, and what it is indexed under then. Consonants, because the
# stemmer looks at the vowels before a word's ending.
_LEVELS = ((1, "b"), (2, "c"), (4, "d"))
# A row for each word: every row costs Python more than SQLite, and its turn among the threads.
_FOUND = f"""
SELECT {
    ", ".join(
        f"(SELECT group_concat(rowid) FROM words WHERE words MATCH json_extract(j.value, '$[{n}]'))"
        for n in range(len(_LEVELS))
    )
}
FROM json_each(?) j
"""  # noqa: S608 - of constants; values are bound


def indexed(collection: int, words: Iterable[str]) -> str:
    """Return what FTS5 is given to index for a passage of `words`."""
    counts = Counter(words)
    return " ".join(
        f"{collection}{mark}{word}"
        for word, count in counts.items()
        for least, mark in _LEVELS
        if count >= least
    )


def score(
    connection: sqlite3.Connection, collection: int, view: View, words: Sequence[str]
) -> Floats:
    """Return BM25 of every place in `view`; 0 where no word occurs or nothing is shown."""
    scores = np.zeros(view.rows, np.float32)
    if not view.shown:
        return scores
    counts = np.zeros(view.rows, np.float32)
    for levels in _passages(connection, collection, words):
        places, *more = map(view.places, levels)
        counts[places] = 1
        for (least, _), repeated in zip(_LEVELS[1:], more, strict=True):
            counts[repeated] = least
        often = counts[places]
        scores[places] += bm25(
            often, view.lengths[places], shown=view.shown, mean_length=view.mean_length
        )
    return scores


def _passages(
    connection: sqlite3.Connection, collection: int, words: Sequence[str]
) -> Generator[list[Integers]]:
    """Yield of each word the passages that have it once at least, twice, four times."""
    # A word is letters and digits alone: there is nothing in it to be taken for syntax.
    names = [[f'"{collection}{mark}{word}"' for _, mark in _LEVELS] for word in words]
    for row in connection.execute(_FOUND, (json.dumps(names),)):
        yield [np.fromstring(ids or "", np.int64, sep=",") for ids in row]
