"""How the schema got here, step by step, and how a database is brought to the newest one."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from galley.core.settings import SettingsError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0011"
"""The newest revision; a test holds it to the files in `versions/`."""

_one_at_a_time = threading.Lock()  # Alembic keeps what it works on in its module


async def current(engine: AsyncEngine) -> str | None:
    """Tell the database's revision, None when it is empty; Alembic itself is not needed for it."""
    async with engine.connect() as connection:
        return await connection.run_sync(_revision)


def upgrade(url: URL, revision: str = "head") -> None:
    """Run what is missing, in one transaction. Not for the event loop's thread.

    Raises:
        SettingsError: the database was made by a newer Galley, or is not as a migration expects.
    """
    from alembic import command  # 80 ms and 11 MB that a database at head does without
    from alembic.util import CommandError

    try:
        with _one_at_a_time:
            command.upgrade(config(url), revision)
    except (CommandError, DBAPIError) as error:
        shown = url.render_as_string(hide_password=True)
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise SettingsError(
            f"The database {shown} cannot be brought to revision {HEAD}: {reason}. "
            "If a newer Galley made it, start that one."
        ) from error


def config(url: URL) -> "Config":
    """Point Alembic at these migrations and at one database."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", _escaped(str(Path(__file__).parent)))
    made.set_main_option("sqlalchemy.url", _escaped(url.render_as_string(hide_password=False)))
    return made


def _escaped(value: str) -> str:
    return value.replace("%", "%%")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))
