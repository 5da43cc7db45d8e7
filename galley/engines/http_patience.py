"""How long to wait for another server, and the one timer that an answer costs."""

import asyncio
from dataclasses import dataclass
from math import inf

from aiohttp import SocketTimeoutError, StreamReader


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


class Exchange:
    """One request and its answer: how far it has come, and how long what is next may take.

    Whoever reads the answer sets `begun` at its first token and `ended` at its last event.
    """

    __slots__ = ("_content", "_due", "_idle", "_loop", "_timer", "begun", "ended", "first_due")

    def __init__(self, patience: Patience) -> None:
        self.begun = False
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self.first_due = self._loop.time() + patience.first_token
        self._idle = patience.idle
        self._due = inf
        self._content: StreamReader | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def more(self, content: StreamReader) -> bytes:
        """Return what has come since the last call, or comes next; nothing at the end.

        Raises:
            SocketTimeoutError: what is due did not come in time.
        """
        if self._due == inf:
            self._content = content
            self._due = self._loop.time() + self._idle if self.begun else self.first_due
            if self._timer is None or self._due < self._timer.when():
                self._set_timer()
        return await content.readany()

    def rest(self) -> None:
        """Something whole has come; until `more` is asked for, nothing is due."""
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
        elif self._content is not None:
            self._content.set_exception(SocketTimeoutError("nothing came in time"))
