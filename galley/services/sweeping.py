"""Files whose time is over, and what crashes left of others, are deleted."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.db.files import delete_expired, known_files
from galley.db.session import Sessions
from galley.db.tables import parse_id, utc_now

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
LEFT_ALONE = timedelta(hours=1)
"""For so long, bytes without a row may be about to get one."""
_AT_ONCE = 100  # rows


class FileSweeper:
    """Deletes files in `folder`, where `FileService` puts them."""

    def __init__(
        self, sessions: Sessions, folder: Path, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._sessions = sessions
        self._folder = folder
        self._clock = clock

    async def keep(self) -> None:
        """Delete what is to go, from time to time, until cancelled."""
        while True:
            try:
                await self.delete_old()
                await self.sweep()
            except (SQLAlchemyError, OSError) as error:
                log.warning("files_not_swept", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def delete_old(self) -> int:
        """Delete files whose time is over.

        Returns:
            How many there were.
        """
        count, gone = 0, [""] * _AT_ONCE
        while len(gone) == _AT_ONCE:
            async with self._sessions.begin() as session:
                gone = await delete_expired(session, now=self._clock(), limit=_AT_ONCE)
            for file_id in gone:
                await asyncio.to_thread((self._folder / file_id).unlink, missing_ok=True)
            count += len(gone)
        if count:
            log.info("files_deleted", count=count)
        return count

    async def sweep(self) -> int:
        """Delete bytes that belong to no file.

        Returns:
            How many files' bytes there were.
        """
        found = await asyncio.to_thread(self._untouched)
        known = set[str]()
        for begin in range(0, len(found), _AT_ONCE):
            ids = [p.name for p in found[begin : begin + _AT_ONCE] if parse_id(p.name) == p.name]
            async with self._sessions() as session:
                known |= await known_files(session, ids)
        left = [path for path in found if path.name not in known]
        for path in left:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        if left:
            log.info("leftover_files_deleted", count=len(left))
        return len(left)

    def _untouched(self) -> list[Path]:
        """What nobody has written to for a while."""
        before = (self._clock() - LEFT_ALONE).timestamp()
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return [path for path in found if path.stat().st_mtime < before]
