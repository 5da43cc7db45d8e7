"""What users keep stays within their quota, however it comes."""

import asyncio
from pathlib import Path

import pytest

from galley.core.caller import Caller
from galley.core.errors import RequestTooLargeError
from galley.db.session import Database
from galley.db.users import create_user
from galley.services.files import FileService

pytestmark = pytest.mark.anyio

SIZE, FIT = 1_000, 3


async def test_files_that_come_at_once_do_not_go_beyond_the_quota(
    database: Database, tmp_path: Path
) -> None:
    files = FileService(
        database.sessions, tmp_path / "files", most_bytes=SIZE, quota=FIT * SIZE + 1
    )
    async with database.sessions.begin() as session:
        caller = Caller((await create_user(session, email="ada@example.org", name="Ada")).id)

    async def send() -> None:
        async with await files.draft(caller) as draft:
            await draft.write(b"a" * SIZE)
            await files.keep(caller, draft, "a.txt", "user_data")

    found = await asyncio.gather(*(send() for _ in range(12)), return_exceptions=True)

    refused = [error for error in found if isinstance(error, RequestTooLargeError)]
    assert (found.count(None), len(refused)) == (FIT, 12 - FIT)
    assert {error.code for error in refused} == {"file_quota_exceeded"}
    assert len(list((tmp_path / "files").iterdir())) == FIT
