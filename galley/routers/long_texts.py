"""Pictures in large JSON bodies: taken out before the rest is parsed.

A parser holds the interpreter until it is done, on whatever thread, and the event loop stands still
meanwhile: a quarter of a second for 64 MB. What is taken out is looked at in pieces instead.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

LEAST = 65_536  # bytes; shorter texts stay where they are
_MOST = 64  # names are looked at; what else there is stays where it is
_PIECE = 1_048_576  # bytes that are searched in one go

Body = bytes | bytearray


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A body without its long texts, and those by the words that stand for them."""

    body: Body
    texts: Mapping[str, memoryview]

    def text(self, found: str) -> str | memoryview:
        """What stood where `found` was parsed."""
        return self.texts.get(found, found)


def take_out(body: Body, name: bytes) -> TakenOut:
    """Take long texts called `name` out of a JSON object, except those with escapes in them.

    What is left is as valid as it was before: the rest is parsed and checked as ever. The words
    that stand for a text are made up anew each time, so that nobody can write them.
    """
    token = secrets.token_hex(16)
    whole = memoryview(body)
    kept: list[Body | memoryview] = []
    texts: dict[str, memoryview] = {}
    at = done = 0
    for _ in range(_MOST):
        if (found := _find(body, b'"' + name + b'"', at)) < 0:
            break
        if (at := _value(body, found + len(name) + 2)) < 0:
            at = found + 1
            continue
        end = _find(body, b'"', at)
        if end - at < LEAST or _find(body, b"\\", at, end) >= 0:
            continue
        stands_for = f"{token}-{len(texts)}"
        texts[stands_for] = whole[at:end]
        kept += [whole[done:at], stands_for.encode()]
        at = done = end
    if not texts:
        return TakenOut(body, texts)
    return TakenOut(b"".join([*kept, whole[done:]]), texts)


def _value(body: Body, at: int) -> int:
    """Where the text begins whose name ends at `at`; -1 where none comes."""
    head = bytes(body[at : at + 64]).lstrip(b" \t\r\n")
    if not head.startswith(b":"):
        return -1
    after = head[1:].lstrip(b" \t\r\n")
    if not after.startswith(b'"'):
        return -1
    return body.index(b'"', at) + 1


def _find(body: Body, wanted: bytes, start: int, end: int | None = None) -> int:
    """As `find`, but others have their turn now and then."""
    end = len(body) if end is None else end
    for at in range(start, end, _PIECE):
        found = body.find(wanted, at, min(at + _PIECE + len(wanted) - 1, end))
        if found >= 0:
            return found
    return -1
