"""Whose a key is: who asks while the database is being asked shares the next query.

A crowd with keys that nobody knows, each of its own, costs little more than one of them, and who
goes on with such a key costs nothing.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable

from galley.db.keys import Holder, find_holders
from galley.db.session import Sessions
from galley.db.tables import utc_now

AT_ONCE = 100
"""Keys in a query."""

STRANGE_S = 5.0
"""How long a key is not looked for again that is nobody's."""

MOST_STRANGE = 10_000


class Holders:
    """Looks keys up, by hash.

    Args:
        clock: seconds.
    """

    def __init__(self, sessions: Sessions, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._clock = clock
        self._strange: dict[bytes, float] = {}
        self._waiting: dict[bytes, asyncio.Future[Holder | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, key_hash: bytes) -> Holder | None:
        """Return who holds a key; None when it is nobody's, or opens no more."""
        if self._clock() < self._strange.get(key_hash, 0.0):
            return None
        if (found := self._waiting.get(key_hash)) is None:
            found = asyncio.get_running_loop().create_future()
            self._waiting[key_hash] = found
        if self._task is None:  # in no request's context: it is for all of them
            self._task = asyncio.create_task(self._ask(), context=contextvars.Context())
        return await asyncio.shield(found)  # others may wait for the same

    def forget(self) -> None:
        """Look for every key: one that opened no more may do so again."""
        self._strange = {}  # and not emptied: a query may be under way that saw it as it was

    async def _ask(self) -> None:
        while self._waiting:
            strange = self._strange
            asked = {key: self._waiting.pop(key) for key in list(self._waiting)[:AT_ONCE]}
            try:
                async with self._sessions() as session:
                    found = await find_holders(session, list(asked), now=utc_now())
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()  # seen: who asked may have hung up
            else:
                for key_hash, future in asked.items():
                    future.set_result(found.get(key_hash))
                if len(strange) > MOST_STRANGE:
                    strange.clear()
                strange |= dict.fromkeys(asked.keys() - found.keys(), self._clock() + STRANGE_S)
        self._task = None
