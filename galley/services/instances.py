"""The servers that share a database: signs of life, and what the dead left open."""

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.db.instances import beat, interrupt_dead, leave
from galley.db.session import Sessions

log = structlog.get_logger(__name__)

BEAT_S = 10.0
SILENT = timedelta(seconds=30)
"""Who has said nothing for so long is dead."""


class Instances:
    """Shows that this server lives, and marks the requests of those that do not as interrupted.

    One that was taken for dead, as its database was away, goes on: its requests may still settle.
    """

    def __init__(self, sessions: Sessions, instance_id: str) -> None:
        self._sessions = sessions
        self._instance_id = instance_id

    async def look(self) -> None:
        """Say that this server lives, and look after the dead."""
        async with self._sessions.begin() as session:
            await beat(session, instance_id=self._instance_id)
            count = await interrupt_dead(session, silent=SILENT)
        if count:
            log.warning("requests_interrupted", count=count)

    async def keep(self) -> None:
        """Do so from time to time, until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.look()
            except (SQLAlchemyError, OSError) as error:
                log.warning("instances_not_read", error=str(error))

    async def aclose(self) -> None:
        """Say that this server stops: what it leaves open is interrupted at the next look."""
        try:
            async with self._sessions.begin() as session:
                await leave(session, instance_id=self._instance_id)
        except (SQLAlchemyError, OSError) as error:
            log.warning("instance_not_signed_off", error=str(error))
