"""JSON with one meaning: what parsers read differently is no JSON here."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Generator
from typing import Any, NoReturn

# A parser holds the interpreter until it is done: these bound that to a fraction of a second.
MOST_PARTS = 200_000  # objects, lists and names together
MOST_ITEMS = 1_000_000
MOST_NAMES = 2_048  # in one object
MOST_BRACKETS = 2_000_000  # in a body whose items are checked one by one
SHOWN_NAME = 64  # characters of a name that the client made up


def check(body: bytes | bytearray) -> None:
    """Refuse repeated names, NaN and Infinity, bad UTF-8.

    Raises:
        ValueError: that, or it has more parts than a request can need.
        RecursionError: it is nested too deeply.
    """
    if len(body) > MOST_PARTS:
        # Brackets within texts count as well: it takes a book of source code to have so many.
        parts = sum(map(body.count, (b"[", b"{", b":")))
        if parts > MOST_PARTS or body.count(b",") > MOST_ITEMS:
            raise ValueError("it has too many parts")
    # Long integers are left to pydantic, whose words for them are plainer.
    if body.startswith(codecs.BOM_UTF8):
        raise ValueError("it begins with a byte order mark (BOM)")
    _ONE_MEANING.decode(body.decode())


def items(body: bytes | bytearray, name: str) -> Generator[bytes]:
    """Yield the items of the list `name`, which has to be all that `body` has.

    They are objects, each still to be checked; where all are JSON, so is the whole.

    Raises:
        ValueError: it is something else.
    """
    if sum(map(body.count, (b"[", b"{"))) > MOST_BRACKETS:
        raise ValueError("it has too many parts")
    frame = ValueError(f'the body has to be {{"{name}": [...]}} and nothing else')
    head = rb'%b\{%b"%b"%b:%b\[' % (_SPACE, _SPACE, re.escape(name.encode()), _SPACE, _SPACE)
    if (found := re.match(head, body)) is None:
        raise frame
    at, begin = found.end(), _FIRST
    while _END.match(body, at) is None:
        if (found := begin.match(body, at)) is None:
            raise frame
        start, begin = found.end() - 1, _NEXT
        at = _end_of_object(body, start)
        yield bytes(body[start:at])


def _end_of_object(body: bytes | bytearray, at: int) -> int:
    """Find the end of the object that begins there, by its brackets alone."""
    depth = 0
    while True:
        # A match holds the interpreter, hence one window at a time.
        at = _reach(_TOKENS, body, at)
        if body[at] == _QUOTE:  # of a text that does not end in this window
            at = _reach(_TEXT, body, at + 1)
            while body[at] != _QUOTE:
                at = _reach(_TEXT, body, at)
            at += 1
        elif body[at] in b"[{":
            depth, at = depth + 1, at + 1
        elif body[at] in b"]}":
            depth, at = depth - 1, at + 1
            if not depth:
                return at


def _reach(pattern: re.Pattern[bytes], body: bytes | bytearray, at: int) -> int:
    """Match from there on; the match may be empty, but is not the end of `body`."""
    found = pattern.match(body, at, at + _WINDOW)
    at = found.end() if found is not None else at
    if at >= len(body) - 1:
        raise ValueError("an item is not whole")
    return at


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise ValueError(f"an object has more than {MOST_NAMES} names")
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice[:SHOWN_NAME]!r} is given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_WINDOW = 200_000  # bytes
_QUOTE = ord('"')
_SPACE = rb"[ \t\r\n]{0,10000}+"
_FIRST = re.compile(rb"%b\{" % _SPACE)
_NEXT = re.compile(rb"%b,%b\{" % (_SPACE, _SPACE))
_END = re.compile(rb"%b\]%b\}%b\Z" % (_SPACE, _SPACE, _SPACE))
_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TOKENS = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_ONE_MEANING = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_constant, parse_int=float
)
