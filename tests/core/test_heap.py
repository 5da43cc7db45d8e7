import gc
import weakref
from collections.abc import Iterator

import pytest

from galley.core.heap import freeze_heap, lasting


class Thing:
    """Refers to itself, so that only the collector can end it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_garbage_from_before_is_freed_and_what_is_frozen_is_not_looked_at() -> None:
    garbage, kept = weakref.ref(Thing()), Thing()
    seen = weakref.ref(kept)

    freeze_heap()
    del kept
    gc.collect()

    assert garbage() is None
    assert seen() is not None


def test_garbage_from_after_it_is_freed() -> None:
    freeze_heap()
    garbage = weakref.ref(Thing())

    gc.collect()

    assert garbage() is None


def test_nothing_is_looked_through_while_what_lasts_is_made() -> None:
    gc.set_threshold(1)

    with lasting():
        before = passes()
        made = [Thing() for _ in range(1000)]
        after = passes()

    assert len(made) == 1000
    assert after == before
    assert gc.isenabled()


def passes() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())
