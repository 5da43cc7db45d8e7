"""Spans of a request: where its time went, for who collects them; else none are made.

Whoever does a part of the work marks it with `step`. The trace is found in a context variable, so
that engines and queues need not be handed it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]


class Attempt(Protocol):
    """A call of a model."""

    def end(self, outcome: str) -> None:
        """It ended: `ok`, `cancelled`, or an error's code."""
        ...


class Trace(Protocol):
    """The spans of one request."""

    headers: Mapping[str, str]
    """What tells another server, asked now, whose request this is."""

    def step(self, name: str) -> AbstractContextManager[object]:
        """Mark a block: a part of the attempt under way, or of the request."""
        ...

    def attempt(self, model: str, provider: str) -> Attempt:
        """A model is asked; what happens until it ends is part of it."""
        ...

    def end(self, told: Attributes, usage: Attributes, error: str | None) -> None:
        """The request is over.

        Args:
            told: of the request.
            usage: of the request, and of the attempt that was its answer.
            error: its code, where the server is at fault.
        """
        ...


class Tracer(Protocol):
    """Makes traces, and sends them to a collector."""

    def trace(self, endpoint: str, *, elapsed_ms: float, parent: str | None) -> Trace:
        """Begin with a request.

        Args:
            elapsed_ms: how long ago it came in.
            parent: its caller's `traceparent`, as it was sent.
        """
        ...


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the request that is being answered."""

_NO_HEADERS: Mapping[str, str] = {}
_NOTHING: AbstractContextManager[object] = nullcontext()


def step(name: str) -> AbstractContextManager[object]:
    """Mark a block as a part of the request that is being answered."""
    trace = current.get()
    return _NOTHING if trace is None else trace.step(name)


def passed_on() -> Mapping[str, str]:
    """What to tell a server that is asked for this request, as headers."""
    trace = current.get()
    return _NO_HEADERS if trace is None else trace.headers
