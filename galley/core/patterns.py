"""Regular expressions from admins, as filters take them: of bounded length, and soon tried."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PATTERN = 256
MAX_REPEATS = 16
"""Of a group that can be tried in several ways."""
MAX_DEPTH = 16
MAX_WIDTH = 1000
MAX_WAYS = 1000

_TOKEN = re.compile(
    r"""
    (?P<look>\(\?<?!\[\^?[^]]+\]\)|\(\?<?!\\[dw]\))
    |(?P<open>\(\?:|\((?!\?))
    |(?P<close>\))
    |(?P<bar>\|)
    |(?P<repeat>\?|\{\d{1,5}(?:,\d{1,5})?\})\??
    |(?P<edge>\\b)
    |(?P<one>\\(?:[dDwWsStnr]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^A-Za-z0-9])
        |\[\^?\]?(?:\\.|[^]\\])*\]
        |[^\\()\[\]{}|*+?^$])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A pattern that matches no more than `most` characters.

    Args:
        beginning: a pattern that also matches where the text ends before its match does.
        ways: an upper bound of the ways to try it at one place.
    """

    beginning: str
    least: int
    most: int
    ways: int


def check_filter_pattern(pattern: str) -> None:
    """Refuse a pattern that cannot be looked for in a stream, or would take too long to.

    Raises:
        ValueError: it says what a pattern may be.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern is longer than {MAX_PATTERN} characters")
    if not pattern.isprintable():
        raise ValueError(
            "the pattern has characters that cannot be seen; write \\n, \\t or \\u0000"
        )
    if "(?!" in pattern or "(?<!" in pattern:
        raise ValueError("a filter's pattern does not look around; \\b is what it has of that")
    found = bounded(pattern)
    if not found.least:
        raise ValueError("the pattern matches where there is nothing")
    if found.most > MAX_WIDTH or found.ways > MAX_WAYS:
        raise ValueError(
            f"the pattern matches more than {MAX_WIDTH} characters, or in more than {MAX_WAYS}"
            " ways; bound what it repeats, as in {1,20}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(pattern, re.IGNORECASE)
        except (re.error, FutureWarning) as error:
            raise ValueError(f"the pattern cannot be read: {error}") from error


def bounded(pattern: str) -> Bounded:
    """Read a pattern whose matches have bounds.

    It has characters, classes, groups, alternatives, `?`, `{n}`, `{m,n}` and `\\b`.

    Raises:
        ValueError: it has something else.
    """
    tokens = _Tokens(pattern)
    found = _alternatives(tokens)
    if tokens.kind is not None:
        raise ValueError("the pattern closes a group that was not opened")
    return found


class _Tokens:
    """The tokens of a pattern, one after the other; `kind` is None at the end."""

    depth = 0

    def __init__(self, pattern: str) -> None:
        self._rest = self._read(pattern)
        self.kind: str | None = None
        self.text = ""
        self.advance()

    def advance(self) -> None:
        self.kind, self.text = next(self._rest, (None, ""))

    def _read(self, pattern: str) -> Iterator[tuple[str | None, str]]:
        place = 0
        while place < len(pattern):
            found = _TOKEN.match(pattern, place)
            if found is None:
                raise ValueError(
                    "a filter's pattern has characters, classes, groups, | ? {n} {m,n} and \\b;"
                    f" not {pattern[place : place + 3]!r}. In place of * and + say how often at"
                    " most, as in {0,20} and {1,20}"
                )
            yield found.lastgroup, found[0]
            place = found.end()


def _alternatives(tokens: _Tokens) -> Bounded:
    branches = [_sequence(tokens)]
    while tokens.kind == "bar":
        tokens.advance()
        branches.append(_sequence(tokens))
    return Bounded(
        "|".join(branch.beginning for branch in branches),
        min(branch.least for branch in branches),
        max(branch.most for branch in branches),
        sum(branch.ways for branch in branches),
    )


def _sequence(tokens: _Tokens) -> Bounded:
    found = Bounded("", 0, 0, 1)
    while tokens.kind not in (None, "bar", "close"):
        part = _repeated(_atom(tokens), tokens)
        found = Bounded(
            found.beginning + part.beginning,
            found.least + part.least,
            found.most + part.most,
            found.ways * part.ways,
        )
    return found


def _atom(tokens: _Tokens) -> Bounded:
    kind, text = tokens.kind, tokens.text
    tokens.advance()
    if kind == "one":
        return Bounded(f"(?:{text}|\\Z)", 1, 1, 1)
    if kind == "look":
        return Bounded(text, 0, 0, 1)
    if kind == "edge":
        return Bounded(r"(?:\b|\Z)", 0, 0, 1)
    if kind != "open":
        raise ValueError(f"the pattern has {text!r} where nothing can be repeated")
    tokens.depth += 1
    if tokens.depth > MAX_DEPTH:
        raise ValueError(f"the pattern nests more than {MAX_DEPTH} groups")
    inside = _alternatives(tokens)
    tokens.depth -= 1
    if tokens.kind != "close":
        raise ValueError("the pattern opens a group and does not close it")
    tokens.advance()
    return Bounded(f"(?:{inside.beginning})", inside.least, inside.most, inside.ways)


def _repeated(part: Bounded, tokens: _Tokens) -> Bounded:
    if tokens.kind != "repeat":
        return part
    text = tokens.text
    tokens.advance()
    least, most = _times(text)
    if least > most:
        raise ValueError(f"the pattern repeats {text}")
    if part.ways > 1:
        ways = part.ways**most if most <= MAX_REPEATS else MAX_WAYS + 1
    else:
        ways = most - least + 1
    return Bounded(part.beginning + text, part.least * least, part.most * most, ways)


def _times(text: str) -> tuple[int, int]:
    if text.startswith("?"):
        return 0, 1
    least, _, most = text.strip("{}?").partition(",")
    return int(least), int(most or least)
