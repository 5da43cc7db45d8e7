"""Whose a key is: who asks while the database is being asked shares the next query.

A crowd with keys that nobody knows, each of its own, costs little more than one of them.
"""

import asyncio
import contextvars

from galley.db.keys import Holder, find_holders
from galley.db.session import Sessions
from galley.db.tables import utc_now

AT_ONCE = 100
"""Keys in a query."""


class Holders:
    """Looks keys up, by hash. Nobody's answer is older than their question."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: dict[bytes, asyncio.Future[Holder | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, key_hash: bytes) -> Holder | None:
        """Return who holds a key; None when it is nobody's, or opens no more."""
        if (found := self._waiting.get(key_hash)) is None:
            found = asyncio.get_running_loop().create_future()
            self._waiting[key_hash] = found
        if self._task is None:  # in no request's context: it is for all of them
            self._task = asyncio.create_task(self._ask(), context=contextvars.Context())
        return await asyncio.shield(found)  # others may wait for the same

    async def _ask(self) -> None:
        while self._waiting:
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
        self._task = None
