"""Who may serve from one PostgreSQL at the same time: one server, or several that share limits.

An advisory lock says so, on a connection of its own: it is gone the moment its server is, also
after `kill -9`, so that the next start need not wait for anything.
"""

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from galley.core.settings import SettingsError
from galley.db.advisory_locks import SERVING, STARTING

log = structlog.get_logger(__name__)

LOOK_S = 5.0


async def in_turn(session: AsyncSession) -> None:
    """Wait until no other server that starts is at this point, and hold it until the commit."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one server, and one writer
        await session.execute(select(func.pg_advisory_xact_lock(STARTING)))


class Claim:
    """What a server holds as long as it runs.

    Args:
        shares: it counts limits in Redis, and lets others in that do so too.
    """

    def __init__(self, engine: AsyncEngine, *, shares: bool) -> None:
        self.problem: str | None = None
        """Why this server should not serve; PostgreSQL was away, and another one came first."""
        self._engine = engine
        self._shares = shares
        self._connection: AsyncConnection | None = None

    async def take(self) -> None:
        """Claim the database.

        Raises:
            SettingsError: another server does, and one of them counts limits on its own.
        """
        connection = await self._engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            lock = func.pg_try_advisory_lock
            if self._shares:
                lock = func.pg_try_advisory_lock_shared
            if not await connection.scalar(select(lock(SERVING))):
                raise SettingsError(self._why())
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    async def keep(self, *, every_s: float = LOOK_S) -> None:
        """See to it that it is held, until cancelled: with the connection, the claim is lost."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.renew()
            except (SQLAlchemyError, OSError) as error:  # also that all connections are in use
                log.warning("claim_not_renewed", error=str(error))

    async def renew(self) -> None:
        """Claim the database again where the claim was lost."""
        if self._connection is not None:
            try:
                await self._connection.scalar(select(1))
            except (SQLAlchemyError, OSError):
                await self.aclose()
            else:
                return
        try:
            await self.take()
        except SettingsError as error:
            if self.problem is None:
                log.error("database_claimed_by_another", error=str(error))
            self.problem = "another server uses it"
        else:
            self.problem = None

    async def aclose(self) -> None:
        """Let go of it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError, OSError):
                await connection.invalidate()  # the lock ends with the connection
                await connection.close()

    def _why(self) -> str:
        shown = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
        if self._shares:
            return (
                f"Another server is using {shown}, and counts limits on its own. Start that one"
                " with this one's GALLEY_REDIS_URL, or stop it."
            )
        return (
            f"Another server is using {shown}. Several servers on one database count limits in"
            " one Redis: give all of them the same GALLEY_REDIS_URL=redis://host:6379/0. Or stop"
            " the other one, or give this one a database of its own."
        )
