"""The heap of a server: what its start made stays until its end."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

YOUNG = 20_000
"""Objects more than before, then the youngest are looked through: about what is in flight at a
time, so that most of them are gone by then."""


def freeze_heap() -> None:
    """Take all objects there are out of the garbage collector's sight.

    A start makes some 200,000, and under load the collector would look through all of them every
    few hundred requests: a third of what a request costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


@contextmanager
def lasting() -> Generator[None]:
    """Keep the garbage collector away while something is made that stays, as by an import.

    Looking through it again and again is a fifth of what importing the server costs.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
