"""Lines, out of pieces that end anywhere."""

from typing import NamedTuple


class Line(NamedTuple):
    """A line without its end.

    Args:
        number: from 1 on, empty lines counted.
        text: of a line that is too long, its beginning.
        whole: whether it is all of it.
    """

    number: int
    text: bytes
    whole: bool


class Splitter:
    """Finds the lines that are not empty, none longer than `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 0
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Line]:
        """Return the lines that end within `piece`."""
        first, *others = piece.split(b"\n")
        self._add(first)
        found: list[Line] = []
        for text in others:
            line = self._end()
            if line.text and not line.text.isspace():
                found.append(line)
            self._add(text)
        return found

    def _add(self, text: bytes) -> None:
        self._parts.append(text[: max(0, self._longest - self._size)])
        self._size += len(text)

    def _end(self) -> Line:
        self._number += 1
        line = Line(self._number, b"".join(self._parts), self._size <= self._longest)
        self._parts, self._size = [], 0
        return line
