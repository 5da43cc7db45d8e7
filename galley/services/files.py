"""Files that users keep here: rows in the database, bytes in a folder, each under the file's id.

Bytes are there before their row and go after it: what a crash leaves is bytes that no row knows,
and those are swept away.
"""

import asyncio
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, NotFoundError, RequestTooLargeError
from galley.db.files import (
    delete_file,
    find_file,
    kept,
    list_files,
    put_file,
)
from galley.db.session import Sessions
from galley.db.tables import new_id, parse_id, utc_now
from galley.db.users import find_user
from galley.db.work_tables import File
from galley.schemas.files import MONTH_S, DeletedFile, FileList, FileReply
from galley.services.drafts import Draft
from galley.services.lines import Line, Splitter

MOST_FILES = 10_000
"""Of one user."""
MOST_LISTED = 1_000
"""On one page, whatever is asked for."""
LONGEST_NAME = 255
_PIECE = 262_144  # bytes read at a time
_SHORT_LIVED = frozenset({"batch", "batch_output"})
# They turn the rest of a line around, so that a name reads as another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class FileService:
    """Keeps files for their owners.

    Args:
        folder: where the bytes are; servers and workers that share a database share it too.
        most_bytes: the largest file.
        quota: what one user may keep, in bytes.
    """

    def __init__(
        self,
        sessions: Sessions,
        folder: Path,
        *,
        most_bytes: int,
        quota: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.most_bytes = most_bytes
        self._sessions = sessions
        self._folder = folder
        self._quota = quota
        self._clock = clock
        self._coming = Counter[str]()  # bytes, by user: what is on its way takes room as well

    async def create(
        self,
        caller: Caller,
        name: str,
        purpose: str,
        stream: AsyncIterable[bytes],
        *,
        file_id: str | None = None,
        lifetime_s: int | None = None,
    ) -> File:
        """Keep what a job has made; no quota is in its way, but it counts from then on.

        Args:
            file_id: where it is the same when the work is done again, the file takes the earlier
                one's place.
            lifetime_s: as `keep`.
        """
        async with Draft(self.path(file_id or new_id()), _anything) as draft:
            async for piece in stream:
                await draft.write(piece)
            return await self._keep(
                caller, draft, name, purpose, lifetime_s=lifetime_s, limited=False
            )

    @asynccontextmanager
    async def draft(self, caller: Caller) -> AsyncGenerator[Draft]:
        """Begin a file that `caller` sends, to be written and then kept, within their quota.

        Raises:
            RequestTooLargeError: there is no room for anything.
        """
        async with self._sessions() as session:
            count, used = await kept(session, caller.user_id)
        if count >= MOST_FILES:
            raise RequestTooLargeError(
                f"You keep {count} files, and may have {MOST_FILES}. Delete some first.",
                code="file_quota_exceeded",
            )

        coming, mine = self._coming, 0

        def check(size: int) -> None:
            nonlocal mine
            if size > self.most_bytes:
                raise RequestTooLargeError(
                    f"The file is larger than {self.most_bytes} bytes.", code="request_too_large"
                )
            if used + coming[caller.user_id] - mine + size > self._quota:
                raise self._full()
            coming[caller.user_id] += size - mine
            mine = size

        try:
            check(1)
            async with Draft(self.path(new_id()), check) as draft:
                yield draft
        finally:
            coming[caller.user_id] -= mine
            if not coming[caller.user_id]:
                del coming[caller.user_id]

    async def keep(
        self,
        caller: Caller,
        draft: Draft,
        name: str,
        purpose: str,
        *,
        lifetime_s: int | None = None,
    ) -> File:
        """Make a file of what was written.

        Args:
            lifetime_s: unset, batches' files are kept for 30 days, and others until deleted.
        Raises:
            BadRequestError: it cannot be named so.
            RequestTooLargeError: others took the room meanwhile.
        """
        check_name(name)
        return await self._keep(caller, draft, name, purpose, lifetime_s=lifetime_s, limited=True)

    async def _keep(
        self,
        caller: Caller,
        draft: Draft,
        name: str,
        purpose: str,
        *,
        lifetime_s: int | None,
        limited: bool,
    ) -> File:
        await draft.finish()
        now = self._clock()
        seconds = lifetime_s or (MONTH_S if purpose in _SHORT_LIVED else None)
        file = File(
            id=draft.path.name,
            user_id=caller.user_id,
            name=name,
            purpose=purpose,
            size=draft.size,
            sha256=draft.sha256,
            created_at=now,
            expires_at=None if seconds is None else now + timedelta(seconds=seconds),
        )
        async with self._sessions.begin() as session:
            if not limited or await self._fits(session, file):
                await put_file(session, file)
                return file
        await asyncio.to_thread(draft.path.unlink)
        raise self._full()

    async def _fits(self, session: AsyncSession, file: File) -> bool:
        await find_user(session, file.user_id, change=True)  # one by one, so that sums hold
        count, used = await kept(session, file.user_id)
        return count < MOST_FILES and used + file.size <= self._quota

    async def find(self, caller: Caller, file_id: str) -> File:
        """Return a file of `caller`.

        Raises:
            NotFoundError: there is none, or not for them.
        """
        known = row_id(file_id)
        async with self._sessions() as session:
            file = known and await find_file(
                session, user_id=caller.user_id, file_id=known, now=self._clock()
            )
        if not file:
            raise _not_found(file_id)
        return file

    async def delete(self, caller: Caller, file_id: str) -> DeletedFile:
        """Delete a file of `caller`, bytes and all.

        Raises:
            NotFoundError: as `find`.
        """
        file = await self.find(caller, file_id)
        async with self._sessions.begin() as session:
            if not await delete_file(session, user_id=caller.user_id, file_id=file.id):
                raise _not_found(file_id)
        await asyncio.to_thread(self.path(file.id).unlink, missing_ok=True)
        return DeletedFile(id=wire_id(file.id))

    async def read(self, file: File) -> AsyncGenerator[bytes]:
        """Yield what is in `file`, piece by piece.

        Raises:
            NotFoundError: its bytes are gone.
        """
        try:
            opened = await asyncio.to_thread(self.path(file.id).open, "rb")
        except FileNotFoundError:
            raise _not_found(wire_id(file.id)) from None
        with opened:
            while piece := await asyncio.to_thread(opened.read, _PIECE):
                yield piece

    async def read_lines(self, file: File, *, longest: int) -> AsyncGenerator[list[Line]]:
        """Yield the lines of `file`, many at a time; empty ones are left out.

        Args:
            longest: of a longer one, no more than so many bytes come.
        Raises:
            NotFoundError: as `read`.
        """
        splitter = Splitter(longest)
        async with aclosing(self.read(file)) as pieces:
            async for piece in pieces:
                if lines := splitter.feed(piece):
                    yield lines
        if lines := splitter.feed(b"\n"):
            yield lines

    async def list(
        self,
        caller: Caller,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        latest_first: bool,
    ) -> FileList:
        """List files of `caller`, `MOST_LISTED` at most.

        Raises:
            BadRequestError: `after` is not a file's id.
        """
        async with self._sessions() as session:
            page = await list_files(
                session,
                user_id=caller.user_id,
                purpose=purpose,
                after=after and after.removeprefix("file-"),
                limit=min(limit, MOST_LISTED),
                latest_first=latest_first,
                now=self._clock(),
            )
        data = [reply_of(file) for file in page.rows]
        return FileList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.has_more,
        )

    def _full(self) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"Your files would take more than the {self._quota} bytes that you may keep."
            " Delete some first.",
            code="file_quota_exceeded",
        )

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file are, by its id in the database."""
        return self._folder / file_id


def check_name(name: str) -> None:
    """Refuse what is no plain file name; no path of ours is made of it, but maybe one of yours.

    Raises:
        BadRequestError: it says what a name may be.
    """
    odd = any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in _TURNING for c in name)
    if odd or name in {"", ".", ".."} or {"/", "\\"} & set(name) or len(name) > LONGEST_NAME:
        raise BadRequestError(
            f"The file needs a name of 1 to {LONGEST_NAME} characters, without slashes and control"
            " characters.",
            code="invalid_filename",
            param="file",
        )


def wire_id(known: str) -> str:
    """Write a file's id as the API has it."""
    return f"file-{known.replace('-', '')}"


def row_id(file_id: str) -> str | None:
    """Return a file's id as the database has it; None when it cannot be one."""
    return parse_id(file_id[5:]) if file_id.startswith("file-") else None


def reply_of(file: File) -> FileReply:
    """Describe `file` as the API does."""
    return FileReply(
        id=wire_id(file.id),
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
        filename=file.name,
        purpose=file.purpose,
    )


def _anything(_: int) -> None:
    """Let a file of any size be."""


def _not_found(file_id: str) -> NotFoundError:
    return NotFoundError(
        f"You have no file {file_id[:64]!r} here: it was deleted, or is too old.",
        code="file_not_found",
    )
