"""Moves an installation from SQLite to PostgreSQL: all of it, or nothing."""

import asyncio
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from galley.core.settings import SettingsError
from galley.db import migrations
from galley.db.engine import is_sqlite, make_engine, parse_url
from galley.db.moving import TABLES, Moved, MovingError, Tell, lock, move_tables, occupied
from galley.db.session import hold_database
from galley.stores import passages_moving


async def move(source: str, target: str, passages: Path, tell: Tell) -> list[Moved]:
    """Copy the database `source` and the documents beside it to `target`.

    It is one transaction: when it ends early, `target` is as empty as it was.

    Args:
        passages: SQLite's file of documents; there need not be one.
    Returns:
        What has arrived, by table, found equal to what there was.
    Raises:
        MovingError: `target` has something in it already, or not all has arrived.
        SettingsError: either cannot be used as it is, or a server runs on `source`.
    """
    if not is_sqlite(parse_url(source)):
        raise SettingsError("Only an installation on SQLite is moved. This one is on PostgreSQL.")
    if is_sqlite(parse_url(target)):
        raise SettingsError(
            "--to has to name a PostgreSQL database, such as postgresql://user@host/galley"
        )
    async with hold_database(source) as old:
        await _prepare(target)
        async with hold_database(target) as new:
            try:
                async with old.engine.connect() as reading, new.engine.begin() as writing:
                    names = [*(table.name for table in TABLES), *passages_moving.TABLES]
                    await lock(writing, names)
                    if (name := await occupied(writing, names)) is not None:
                        raise MovingError(
                            f"The target has something in it already (in {name!r}). Name an empty"
                            " database; nothing was changed."
                        )
                    found = await move_tables(reading, writing, tell)
                    return found + await passages_moving.move_passages(passages, writing, tell)
            except (DBAPIError, OSError) as error:
                reason = error.orig if isinstance(error, DBAPIError) else error
                raise MovingError(f"It broke off: {reason}. Nothing was changed.") from error


async def _prepare(target: str) -> None:
    """Make the tables where there are none.

    Raises:
        SettingsError: it cannot be reached, or they cannot be made.
    """
    url = parse_url(target)
    engine = make_engine(url)
    try:
        revision = await migrations.current(engine)
    except (DBAPIError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        shown = url.render_as_string(hide_password=True)
        raise SettingsError(f"The database {shown} cannot be opened: {reason}") from error
    finally:
        await engine.dispose()
    if revision is None:
        await asyncio.to_thread(migrations.upgrade, url)
