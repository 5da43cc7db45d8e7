"""Files whose time is over go, and so does what crashes left behind."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from galley.core.caller import Caller
from galley.core.errors import NotFoundError
from galley.db.session import Database
from galley.db.tables import new_id
from galley.db.users import create_user
from galley.db.work_tables import File
from galley.services.files import FileService, wire_id
from galley.services.sweeping import FileSweeper

pytestmark = pytest.mark.anyio


class Cellar:
    """Files, whose sweeper has a clock that can be put forward."""

    def __init__(self, database: Database, folder: Path, caller: Caller) -> None:
        self.caller = caller
        self.folder = folder
        self.ahead = timedelta()
        self.files = FileService(
            database.sessions, folder, most_bytes=10**9, quota=10**9, clock=self.now
        )
        self.sweeper = FileSweeper(database.sessions, folder, clock=self.now)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def keep(self, lifetime_s: int | None = None) -> File:
        async def content() -> AsyncIterator[bytes]:
            yield b"hello"

        return await self.files.create(
            self.caller, "a", "user_data", content(), lifetime_s=lifetime_s
        )

    def leave(self, name: str, hours: float) -> Path:
        """What a crash left so many hours ago."""
        path = self.folder / name
        path.write_bytes(b"torn")
        moment = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        os.utime(path, (moment, moment))
        return path


@pytest.fixture
async def cellar(database: Database, tmp_path: Path) -> Cellar:
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="Ada")
    return Cellar(database, tmp_path / "files", Caller(user.id))


async def test_a_file_whose_time_is_over_is_gone_before_it_is_deleted(cellar: Cellar) -> None:
    short, lasting = await cellar.keep(3600), await cellar.keep()
    cellar.ahead = timedelta(hours=1, seconds=1)

    with pytest.raises(NotFoundError):
        await cellar.files.find(cellar.caller, wire_id(short.id))
    assert cellar.files.path(short.id).exists()
    deleted = await cellar.sweeper.delete_old()

    assert deleted == 1
    assert not cellar.files.path(short.id).exists()
    assert (await cellar.files.find(cellar.caller, wire_id(lasting.id))).id == lasting.id


async def test_what_crashes_left_is_swept_away_and_files_are_not(cellar: Cellar) -> None:
    kept = await cellar.keep()
    old = [cellar.leave(name, 2) for name in (new_id(), f"{new_id()}.part", "x")]
    fresh = [cellar.leave(f"{new_id()}.part", 0.1), cellar.leave(new_id(), 0.1)]

    first = await cellar.sweeper.sweep()
    cellar.ahead = timedelta(hours=2)
    second = await cellar.sweeper.sweep()

    assert (first, second) == (3, 2)
    assert not any(path.exists() for path in [*old, *fresh])
    assert cellar.files.path(kept.id).read_bytes() == b"hello"


async def test_nothing_to_sweep_is_no_matter(cellar: Cellar) -> None:
    assert await cellar.sweeper.sweep() == 0
    assert await cellar.sweeper.delete_old() == 0
