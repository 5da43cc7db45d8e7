"""JSON with one meaning: what parsers read differently is no JSON here."""

import codecs
import json
from collections import Counter
from typing import Any, NoReturn

# A parser holds the interpreter until it is done: these bound that to a fraction of a second.
MOST_PARTS = 200_000  # objects, lists and names together
MOST_ITEMS = 1_000_000
MOST_NAMES = 2_048  # in one object
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


_ONE_MEANING = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_constant, parse_int=float
)
