"""What users keep stays within their quota, however it comes."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from galley.core.caller import Caller
from galley.core.errors import RequestTooLargeError
from galley.db.session import Database
from galley.db.users import create_user
from galley.services.files import FileService

pytestmark = pytest.mark.anyio

SIZE, FIT = 1_000, 3


@pytest.fixture
async def caller(database: Database) -> Caller:
    async with database.sessions.begin() as session:
        return Caller((await create_user(session, email="ada@example.org", name="Ada")).id)


def open_files(database: Database, folder: Path) -> FileService:
    """As one server has them; there may be several."""
    return FileService(database.sessions, folder, most_bytes=SIZE, quota=FIT * SIZE + 1)


async def test_files_that_come_at_once_to_several_servers_do_not_go_beyond_the_quota(
    database: Database, caller: Caller, tmp_path: Path
) -> None:
    async def send() -> None:
        files = open_files(database, tmp_path / "files")
        async with files.draft(caller) as draft:
            await draft.write(b"a" * SIZE)
            await files.keep(caller, draft, "a.txt", "user_data")

    found = await asyncio.gather(*(send() for _ in range(12)), return_exceptions=True)

    refused = [error for error in found if isinstance(error, RequestTooLargeError)]
    assert (found.count(None), len(refused)) == (FIT, 12 - FIT)
    assert {error.code for error in refused} == {"file_quota_exceeded"}
    assert len(list((tmp_path / "files").iterdir())) == FIT


async def test_what_is_on_its_way_takes_room_until_it_is_kept_or_given_up(
    database: Database, caller: Caller, tmp_path: Path
) -> None:
    files = open_files(database, tmp_path / "files")
    async with AsyncExitStack() as stack:
        for _ in range(FIT):
            draft = await stack.enter_async_context(files.draft(caller))
            await draft.write(b"a" * SIZE)
        with pytest.raises(RequestTooLargeError) as refused:
            async with files.draft(caller) as late:
                await late.write(b"a" * SIZE)

    async with files.draft(caller) as again:
        await again.write(b"a" * SIZE)

    assert refused.value.code == "file_quota_exceeded"
    assert list((tmp_path / "files").iterdir()) == []
