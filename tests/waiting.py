"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], longest_s: float = 10) -> None:
    """Look again and again until it holds."""
    end = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
