"""Finds passages by words: BM25 over SQLite's full text index.

FTS5's own `bm25()` counts over all owners: what others wrote would move an owner's ranking, show
through in its scores, and cost everybody time. So every word is indexed under the number of its
collection, FTS5 tells which passages have it, and the formula is worked out here, over those that
are shown. FTS5 splits and stems (Porter); as it keeps no counts, a word that occurs twice or four
times in a passage is indexed under a second or third name as well.

Sources: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, with
the inverse document frequency of Lucene, which is never negative.
"""

import json
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Sequence

import numpy as np

from galley.stores.passages import Floats
from galley.stores.passages_vectors import Integers, View

MAX_TERMS = 64
"""Words of a question that are looked for, the rest is left to its vector."""

_K1, _B = 1.2, 0.75
_LONGEST = 48  # a longer run of letters is no word
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
# Chinese, Japanese and Korean put no spaces between words: there, each character is one.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_STOP_WORDS = frozenset(
    word
    for line in (
        "a about all also an and any are as at be been but by can could did do does for from had",
        "has have how i if in into is it its me my no not of on or our she should so such than",
        "that the their them then there these they this those to was we were what when where",
        "which who whom whose why will with would you your",
    )
    for word in line.split()
)


def split(text: str) -> list[str]:
    """Return the words of `text` in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text)
    if not plain.isascii():
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        plain = unicodedata.normalize("NFC", plain)
    return [word[:_LONGEST] for word in _WORD.findall(plain.casefold())]


def indexed(collection: int, words: Iterable[str]) -> str:
    """Return what FTS5 is given to index for a passage of `words`."""
    counts = Counter(words)
    return " ".join(
        f"{collection}{mark}{word}"
        for word, count in counts.items()
        for least, mark in _LEVELS
        if count >= least
    )


def asked(text: str) -> list[str]:
    """Return the words to look for: those that mean something, if there are any."""
    words = list(dict.fromkeys(split(text)))
    return ([word for word in words if word not in _STOP_WORDS] or words)[:MAX_TERMS]


def score(
    connection: sqlite3.Connection, collection: int, view: View, words: Sequence[str]
) -> Floats:
    """Return BM25 of every place in `view`; 0 where no word occurs or nothing is shown."""
    scores = np.zeros(view.rows, np.float32)
    if not view.shown:
        return scores
    mean = np.float32(max(view.mean_length, 1e-9))
    counts = np.zeros(view.rows, np.float32)
    for levels in _passages(connection, collection, words):
        places, *more = map(view.places, levels)
        counts[places] = 1
        for (least, _), repeated in zip(_LEVELS[1:], more, strict=True):
            counts[repeated] = least
        often = counts[places]
        idf = np.log1p((view.shown - len(places) + 0.5) / (len(places) + 0.5))
        norm = _K1 * (1 - _B + _B * view.lengths[places] / mean)
        scores[places] += idf * often * (_K1 + 1) / (often + norm)
    return scores


def _passages(
    connection: sqlite3.Connection, collection: int, words: Sequence[str]
) -> Generator[list[Integers]]:
    """Yield of each word the passages that have it once at least, twice, four times."""
    # A word is letters and digits alone: there is nothing in it to be taken for syntax.
    names = [[f'"{collection}{mark}{word}"' for _, mark in _LEVELS] for word in words]
    for row in connection.execute(_FOUND, (json.dumps(names),)):
        yield [np.fromstring(ids or "", np.int64, sep=",") for ids in row]
