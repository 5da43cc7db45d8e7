"""Opens the database, whichever it is, and brings it up to date."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from socket import gaierror

from filelock import FileLock, Timeout
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from galley.core.settings import SettingsError
from galley.db import migrations
from galley.db.engine import BUSY_TIMEOUT_S, is_sqlite, make_engine, parse_url


class Sessions:
    """Makes sessions: `sessions()` to read, `sessions.begin()` to write in one transaction.

    On SQLite the latter takes the write lock at once: a transaction that reads first and writes
    later fails when the ledger has committed in between.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._reading = async_sessionmaker(engine, expire_on_commit=False)
        self._writing = async_sessionmaker(
            engine.execution_options(writing=True), expire_on_commit=False
        )

    def __call__(self) -> AsyncSession:
        return self._reading()

    def begin(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction; commit it on leaving, roll it back on an error."""
        return self._writing.begin()


class NotThereYetError(SettingsError):
    """Something does not answer that may do so in a moment."""


def is_unavailable(error: BaseException) -> bool:
    """Tell a database that does not answer from one that does not like what it is asked.

    Source: PostgreSQL manual, appendix A: class 08 is connections, 53300 too many of them, 57P an
    operator who stops or starts it.
    """
    lost = (OperationalError, PoolTimeoutError, ConnectionError, TimeoutError, gaierror)
    if isinstance(error, lost) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    if isinstance(error, FileNotFoundError):
        return error.filename is None  # PostgreSQL's own socket, and no file of ours
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return state.startswith(("08", "57P")) or state == "53300"


@dataclass(frozen=True, slots=True)
class Database:
    """An open database with the newest schema. `path` is SQLite's file, None on PostgreSQL."""

    engine: AsyncEngine
    sessions: Sessions
    path: Path | None
    busy_timeout_s: float = BUSY_TIMEOUT_S


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[Database]:
    """Open `url` for one server, at the newest schema; close it on leaving.

    Raises:
        NotThereYetError: PostgreSQL does not answer.
        SettingsError: not a database of ours, no driver for it, in use by another server (SQLite),
            or made by a newer Galley.
    """
    parsed = parse_url(url)
    async with AsyncExitStack() as stack:
        path = (
            stack.enter_context(_own_file(Path(str(parsed.database))))
            if is_sqlite(parsed)
            else None
        )
        engine = make_engine(parsed)
        stack.push_async_callback(engine.dispose)
        await _bring_up_to_date(engine, parsed)
        yield Database(engine, Sessions(engine), path)


@asynccontextmanager
async def hold_database(url: str) -> AsyncGenerator[Database]:
    """Open `url` as it is, and keep servers off it where it is SQLite's.

    Raises:
        SettingsError: as for `open_database`, or not there yet, or not at the newest schema.
    """
    parsed = parse_url(url)
    _check_file(parsed)
    async with AsyncExitStack() as stack:
        path = None
        if is_sqlite(parsed):
            path = stack.enter_context(_own_file(Path(str(parsed.database))))
        engine = make_engine(parsed, migrating=True)
        stack.push_async_callback(engine.dispose)
        try:
            revision = await migrations.current(engine)
        except (DBAPIError, OSError) as error:
            raise _cannot_open(parsed, error) from error
        if revision != migrations.HEAD:
            raise SettingsError(
                f"The database {parsed.render_as_string(hide_password=True)} has the schema of"
                f" another version ({revision}, not {migrations.HEAD}). Start this version's server"
                " on it once: galley serve"
            )
        yield Database(engine, Sessions(engine), path)


@asynccontextmanager
async def visit_database(url: str) -> AsyncGenerator[Sessions]:
    """Open `url` beside the server that may be using it: no lock, no migrations.

    Raises:
        SettingsError: not a database of ours, no driver for it, not there yet, or not answering.
    """
    parsed = parse_url(url)
    _check_file(parsed)
    engine = make_engine(parsed)
    try:
        yield Sessions(engine)
    except (DBAPIError, OSError) as error:
        raise _cannot_open(parsed, error) from error
    finally:
        await engine.dispose()


def _check_file(url: URL) -> None:
    if is_sqlite(url) and not Path(str(url.database)).is_file():
        raise SettingsError(
            f"There is no database {url.database} yet. Start the server once: galley serve"
        )


@contextmanager
def _own_file(path: Path) -> Generator[Path]:
    """Make SQLite's file where it is missing, readable by its owner alone, and lock it."""
    lock = FileLock(f"{path}.lock", timeout=0, mode=0o600, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        lock.acquire()
    except Timeout:
        raise SettingsError(
            f"Another server is using {path}. Stop it, or give this one a GALLEY_DATA_DIR of its "
            "own. Several servers on one database need PostgreSQL: "
            "GALLEY_DATABASE_URL=postgresql://user@host/galley"
        ) from None
    except OSError as error:
        raise SettingsError(f"The database cannot be opened: {error}") from error
    try:
        yield path
    finally:
        lock.release()


async def _bring_up_to_date(engine: AsyncEngine, url: URL) -> None:
    try:
        revision = await migrations.current(engine)
    except (DBAPIError, OSError) as error:
        raise _cannot_open(url, error) from error
    if revision != migrations.HEAD:
        await asyncio.to_thread(migrations.upgrade, url)


def _cannot_open(url: URL, error: DBAPIError | OSError) -> SettingsError:
    shown = url.render_as_string(hide_password=True)
    reason = error.orig if isinstance(error, DBAPIError) else error
    kind = NotThereYetError if not is_sqlite(url) and is_unavailable(error) else SettingsError
    return kind(f"The database {shown} cannot be opened: {reason}")
