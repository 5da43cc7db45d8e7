"""Reading what other people's servers call JSON: anything may be missing, or something else."""

from typing import Any, TypeVar

T = TypeVar("T")

_MOST_TOKENS = 2**31 - 1


def a(kind: type[T], found: Any) -> T:
    """Return `found`, or for null an empty one of its kind.

    Raises:
        ValueError: it is of another kind.
    """
    if found is None:
        return kind()
    if not isinstance(found, kind):
        raise ValueError(f"{type(found).__name__} for {kind.__name__}")
    return found


def count(found: Any) -> int:
    """Return a number of tokens; 0 for null.

    Raises:
        ValueError: it is none.
    """
    number = a(int, found)
    if not 0 <= number <= _MOST_TOKENS:
        raise ValueError(f"{number} tokens")
    return number
