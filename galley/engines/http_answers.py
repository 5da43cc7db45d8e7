"""Answers that come as events, whatever API they are of."""

from collections.abc import Callable, Sequence

from galley.core.errors import GalleyError
from galley.engines.http_patience import Exchange
from galley.schemas.delta import Delta


def read_pieces(
    events: Sequence[bytes], read: Callable[[bytes], Sequence[Delta]], exchange: Exchange
) -> tuple[list[Delta], GalleyError | None]:
    """Read what came at once, up to the end of the answer or to what is wrong with it.

    Args:
        read: returns the pieces of an event; sets `exchange.ended` at the last one.
    Returns:
        The pieces, which count whatever came after them, and what went wrong.
    """
    pieces: list[Delta] = []
    error: GalleyError | None = None
    try:
        for data in events:
            pieces += read(data)
            if exchange.ended:
                break
    except GalleyError as raised:
        error = raised
    for delta in pieces:
        if delta.tokens:
            exchange.begun = True
        if delta.finish_reason is not None:
            exchange.finished = True
    return pieces, error
