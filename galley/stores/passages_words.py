"""Finds passages by words: BM25 over SQLite's full text index.

FTS5's own `bm25()` counts over all owners: what others wrote would move an owner's ranking, show
through in its scores, and cost everybody time. So every word is indexed under the number of its
collection, FTS5 tells which passages have it, and the formula is worked out here, over those that
are shown. FTS5 splits and stems (Porter); as it keeps no counts, a word that occurs twice or four
times in a passage is indexed under a second or third name as well.

Sources: Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, with
the inverse document frequency of Lucene, which is never negative.
"""

import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from galley.stores.passages import Floats
from galley.stores.passages_vectors import View

MAX_TERMS = 64
"""Words of a question that are looked for, the rest is left to its vector."""

_K1, _B = 1.2, 0.75
_LONGEST = 48  # a longer run of letters is no word
# How often a word occurs at least, and what it is indexed under then. Consonants, because the
# stemmer looks at the vowels before a word's ending.
_LEVELS = ((1, "b"), (2, "c"), (4, "d"))
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
    lengths = view.lengths
    norm = _K1 * (1 - _B + _B * lengths / max(view.mean_length, 1e-9))
    for word in words:
        counts = _counts(connection, collection, view, word)
        (places,) = counts.nonzero()
        if not len(places):
            continue
        idf = np.log1p((view.shown - len(places) + 0.5) / (len(places) + 0.5))
        often = counts[places].astype(np.float32)
        scores[places] += idf * often * (_K1 + 1) / (often + norm[places])
    return scores


def _counts(
    connection: sqlite3.Connection, collection: int, view: View, word: str
) -> NDArray[np.uint8]:
    """How often `word` occurs at each place, as far as the index tells: 0, 1, 2 or 4 times."""
    counts = np.zeros(view.rows, np.uint8)
    for least, mark in _LEVELS:
        # A word is letters and digits alone: there is nothing in it to be taken for syntax.
        rows = connection.execute(
            "SELECT rowid FROM words WHERE words MATCH ?", (f'"{collection}{mark}{word}"',)
        ).fetchall()
        if not rows:
            break
        counts[view.places(np.fromiter(chain.from_iterable(rows), np.int64, len(rows)))] = least
    return counts
