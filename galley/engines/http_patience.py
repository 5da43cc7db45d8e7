"""How long to wait for another server, and the one timer that an answer costs."""

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Patience:
    """The longest waits, in seconds; the answer as a whole has the request's own deadline.

    Args:
        connect: for a connection, TLS included.
        first_token: from the request to the first token of its answer.
        idle: from one event to the next.
    """

    connect: float = 5.0
    first_token: float = inf
    idle: float = inf


ENDLESS = Patience()
"""Waits for as long as the request itself may take."""


class Awaited(Protocol):
    """What somebody waits for."""

    def set_exception(self, error: Exception) -> None:
        """Let whoever waits have `error`."""
        ...


class Exchange:
    """One request and its answer: how far it has come, and how long what is next may take.

    Whoever reads the answer sets `begun` at its first token, `finished` when it has said why it
    ends, and `ended` at its last event.
    """

    __slots__ = (
        "_awaited",
        "_due",
        "_idle",
        "_loop",
        "_timer",
        "begun",
        "ended",
        "finished",
        "first_due",
    )

    def __init__(self, patience: Patience) -> None:
        self.begun = False
        self.ended = False
        self.finished = False
        self._loop = asyncio.get_running_loop()
        self.first_due = self._loop.time() + patience.first_token
        self._idle = patience.idle
        self._due = inf
        self._awaited: Awaited | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, awaited: Awaited) -> None:
        """Begin to wait for what is next; a `TimeoutError` is set on it when that is late."""
        self._awaited = awaited
        if self._due == inf:
            self._due = self._loop.time() + self._idle if self.begun else self.first_due
            if self._timer is None or self._due < self._timer.when():
                self._set_timer()

    def rest(self) -> None:
        """Something whole has come; until more is expected, nothing is due."""
        self._due = inf

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.close()
        if self._due < inf:
            self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:  # it was put off, or nobody waits
            self._set_timer()
        elif self._awaited is not None:
            self._awaited.set_exception(TimeoutError("nothing came in time"))
