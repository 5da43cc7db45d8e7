"""Ids of passages: their version's, shifted, and their number in it.

So what belongs to a version is a range of ids.
"""

NUMBER_BITS = 20
"""Of a passage's id; a document has no more passages than they can count."""

MAX_PASSAGES = 1 << NUMBER_BITS


def span(version: int) -> tuple[int, int]:
    """Return the first and the last id that passages of `version` may have."""
    return version << NUMBER_BITS, ((version + 1) << NUMBER_BITS) - 1


def number_of(id_: int) -> int:
    """Return a passage's place among those of its document, from 0."""
    return id_ & (MAX_PASSAGES - 1)
