"""Bytes on their way to disk: all of them, durably, under their final name, or none."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from galley.db.tables import new_id

PART = ".part"
_WRITTEN = 1_048_576  # bytes written at a time


class Draft:
    """A file that is being written, for a block; it is gone afterwards unless it was finished.

    Args:
        path: its final name.
        check: raises when so many bytes are too many.
    """

    def __init__(self, path: Path, check: Callable[[int], None]) -> None:
        self.path = path
        self.size = 0
        self._check = check
        self._hash = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._waiting = 0  # bytes
        self._part = path.with_name(f"{new_id()}{PART}")
        self._disk = threading.Lock()  # who is cancelled leaves a thread that writes

    @property
    def sha256(self) -> bytes:
        """The hash of what is on disk."""
        return self._hash.digest()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._end)

    async def write(self, data: bytes) -> None:
        """Add `data`.

        Raises:
            RequestTooLargeError: it is too much.
        """
        self.size += len(data)
        self._check(self.size)
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= _WRITTEN:
            await self._flush()

    async def finish(self) -> None:
        """Put all of it on disk under its final name, in the place of what was there."""
        await self._flush()
        await asyncio.to_thread(self._finish)

    async def _flush(self) -> None:
        data, self._pieces, self._waiting = b"".join(self._pieces), [], 0
        await asyncio.to_thread(self._write, data)

    def _begin(self) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._part.open("xb", buffering=0)

    def _write(self, data: bytes) -> None:
        with self._disk:
            self._hash.update(data)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def _finish(self) -> None:
        with self._disk:
            os.fsync(self._file.fileno())
            self._part.replace(self.path)
        sync_folder(self.path.parent)

    def _end(self) -> None:
        with self._disk:
            self._file.close()
            self._part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
