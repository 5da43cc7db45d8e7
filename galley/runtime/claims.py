"""Sees to it that servers on one database share their limits."""

from contextlib import AsyncExitStack

from galley.core.settings import Settings
from galley.db.claim import Claim
from galley.db.session import Database
from galley.runtime.background import run


async def claim_database(
    settings: Settings, database: Database, stack: AsyncExitStack, *, is_worker: bool
) -> Claim | None:
    """Claim PostgreSQL for a server; SQLite's file is locked already, and workers count nothing.

    Raises:
        SettingsError: another server is using it, and one of them does without Redis.
    """
    if database.path is not None or is_worker:
        return None
    claim = Claim(database.engine, shares=settings.redis_url is not None)
    await claim.take()
    stack.push_async_callback(claim.aclose)
    run(claim.keep(), stack)
    return claim
