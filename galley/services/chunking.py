"""A text cut into passages that a model can read, each with its place in the text.

Cuts are made where a reader would make them: at headings, else between paragraphs, lines,
sentences or words, whatever comes first in this order near the end of what fits.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galley.stores.passages import Passage

Starts = NDArray[np.int32]

PASSAGE_TOKENS = 160
"""MiniLM was trained on 128 tokens and reads 256: room for headings, and for a whole thought."""

OVERLAP_TOKENS = 24
"""What a passage repeats of the one before, so that no sentence falls between two."""

_MOST_CHARACTERS = 2_000  # a word of any length is one token to some tokenizers
_CONTEXT_CHARACTERS = 160
_SPECIAL_TOKENS = 4
_SMALL_TOKENS = 32  # a section of less joins the next

_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*)$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
_BORDERS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]\s*"),
    re.compile(r"\s+"),
)
_SENTENCE = 2
_APPROXIMATE = re.compile(r"\w{1,4}|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a text, from `start` to before `end`, and the headings it stands under."""

    start: int
    end: int
    headings: tuple[str, ...]


def approximate_starts(text: str) -> Starts:
    """Where tokens begin, at the most: for models whose tokenizer is not here."""
    return np.fromiter((found.start() for found in _APPROXIMATE.finditer(text)), np.int32)


def passages(
    text: str,
    starts: Starts,
    *,
    title: str,
    has_headings: bool,
    max_tokens: int = 256,
) -> list[Passage]:
    """Cut `text`; `text[p.start : p.end] == p.text` holds for every passage, and none is blank.

    Args:
        starts: where each token begins.
        title: of the document: the first part of every passage's context.
        has_headings: whether lines that begin with `#` are headings.
        max_tokens: what the model reads at once, a passage and its context together.
    """
    cutter = _Cutter(text, starts)
    made: list[Passage] = []
    sections = cutter.joined(list(_sections(text))) if has_headings else None
    for section in sections or [Section(0, len(text), ())]:
        context = _context(title, section.headings)
        room = max_tokens - _SPECIAL_TOKENS - len(_APPROXIMATE.findall(context))
        most = max(8, min(PASSAGE_TOKENS, room))
        for start, end in cutter.cuts(section, most, min(OVERLAP_TOKENS, most // 4)):
            made.append(Passage(start, end, text[start:end], context))
    return made


def _context(title: str, headings: Sequence[str]) -> str:
    """Title and headings in a line; the innermost matter most, so the outer ones make room."""
    parts = [part for part in headings if part.casefold() != title.casefold()]
    while len(parts) > 1 and len(" > ".join([title, *parts])) > _CONTEXT_CHARACTERS:
        del parts[0]
    return " > ".join([title, *parts])[:_CONTEXT_CHARACTERS]


def _sections(text: str) -> Iterator[Section]:
    """Cut at headings; what looks like one within a block of code is a comment there."""
    stack: list[tuple[int, str]] = []
    begin = 0
    fences = [found.start() for found in _FENCE.finditer(text)]
    for found in _HEADING.finditer(text):
        if bisect(fences, found.start()) % 2 and fences[-1] > found.start():
            continue
        if text[begin : found.start()].strip():
            yield Section(begin, found.start(), tuple(words for _, words in stack))
        begin, level = found.start(), len(found[1])
        stack = [(above, words) for above, words in stack if above < level]
        stack.append((level, _plain(found[2])))
    if text[begin:].strip():
        yield Section(begin, len(text), tuple(words for _, words in stack))


def _plain(heading: str) -> str:
    return (
        heading.strip().rstrip("#").replace("`", "").replace("*", "").strip()[:_CONTEXT_CHARACTERS]
    )


class _Cutter:
    def __init__(self, text: str, starts: Starts) -> None:
        self._text = text
        self._starts = starts

    def joined(self, sections: Sequence[Section]) -> list[Section]:
        """Let a section of a few words, such as a heading alone, begin the one after it."""
        made: list[Section] = []
        for section in sections:
            last = made[-1] if made else None
            if last is not None and self._tokens(last.start, last.end) < _SMALL_TOKENS:
                made[-1] = Section(last.start, section.end, section.headings)
            else:
                made.append(section)
        return made

    def cuts(self, section: Section, most: int, overlap: int) -> Iterator[tuple[int, int]]:
        """Yield where each passage of a section begins and ends, without the blanks around it."""
        begin, end = self._trimmed(section.start, section.end)
        at = begin
        while at < end:
            cut = self._cut(at, end, most)
            yield self._trimmed(at, cut)
            if cut >= end:
                return
            at = self._repeat_from(at, cut, overlap)

    def _cut(self, at: int, end: int, most: int) -> int:
        """Where a passage that begins at `at` ends: `most` tokens on, at the best border there."""
        first = self._number(at)
        limit = int(self._starts[first + most]) if first + most < len(self._starts) else end
        limit = min(max(limit, at + 1), at + _MOST_CHARACTERS, end)
        if limit == end:
            return end
        return self._border(at + (limit - at) // 2, limit) or limit

    def _border(self, low: int, high: int, best: int = 0) -> int | None:
        """Where the last border of the best kind between `low` and `high` ends."""
        for kind in _BORDERS[best:]:
            ends = [found.end() for found in kind.finditer(self._text, low, high)]
            if ends:
                return ends[-1]
        return None

    def _repeat_from(self, at: int, cut: int, overlap: int) -> int:
        """Where the next passage begins: a little before the cut, with a sentence or a word."""
        first = self._number(cut) - overlap
        if not overlap or first <= 0 or (low := int(self._starts[first])) <= at:
            return cut
        for kind in _BORDERS[_SENTENCE:]:
            found = kind.search(self._text, low, cut)
            if found and at < found.end() < cut:
                return found.end()
        return cut

    def _tokens(self, start: int, end: int) -> int:
        return self._number(end) - self._number(start)

    def _number(self, at: int) -> int:
        """How many tokens begin before `at`. Of another type, it would convert all of them."""
        return int(np.searchsorted(self._starts, np.int32(at)))

    def _trimmed(self, start: int, end: int) -> tuple[int, int]:
        part = self._text[start:end]
        return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
