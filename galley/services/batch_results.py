"""What became of a batch's lines: on disk before it counts, and found again after a crash.

Every run of a batch writes a file of its own and reads those of the runs before it. A line that
two runs answered counts once; the end of a file that a crash cut off counts for nothing. The
moment at which a line was begun is written before that: its request has the same id when it is
done again, and so it is booked once.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from galley.db.tables import new_id
from galley.services.drafts import PART, sync_folder

_AT_ONCE = 1_000_000  # bytes


class Result(NamedTuple):
    """How a line ended.

    Args:
        good: whether it was answered; else its error is.
        text: what is told of it, as JSON.
    """

    line: int
    good: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    text: bytes


class Tally(NamedTuple):
    """What all lines came to that are done."""

    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, result: Result) -> "Tally":
        """Count `result` in."""
        return Tally(
            self.completed + result.good,
            self.failed + (not result.good),
            self.prompt_tokens + result.prompt_tokens,
            self.cached_tokens + result.cached_tokens,
            self.completion_tokens + result.completion_tokens,
        )


class _Place(NamedTuple):
    path: Path
    begin: int
    size: int
    good: bool


class Results:
    """The results of one batch, for a block; belongs to the event loop it was made on."""

    def __init__(self, folder: Path) -> None:
        self.tally = Tally()
        self._folder = folder
        self._own = folder / f"{new_id()}{PART}"
        self._places: dict[int, _Place] = {}
        self._begun: dict[int, int] = {}  # in milliseconds, by line
        self._waiting: list[bytes] = []
        self._added = self._written = 0  # records
        self._turn = asyncio.Lock()
        self._disk = threading.Lock()  # who is cancelled leaves a thread that writes
        self._size = 0

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    def __contains__(self, line: int) -> bool:
        return line in self._places

    def begun(self, line: int) -> int | None:
        """When a line was begun for the first time, in milliseconds; None before that."""
        return self._begun.get(line)

    async def begin(self, lines: Iterable[int], at: datetime) -> None:
        """Write down that `lines` are begun; those that were before stay as they are."""
        fresh = [line for line in lines if line not in self._begun]
        if fresh:
            moment = int(at.timestamp() * 1000)
            self._begun |= dict.fromkeys(fresh, moment)
            await self._write(b"B %d %b\n" % (moment, b" ".join(b"%d" % n for n in fresh)))

    async def add(self, *results: Result) -> None:
        """Keep results; they are on disk when this returns."""
        records, begin = b"", self._size
        for result in results:
            records += b"R %d %d %d %d %d " % result[:5]
            size = len(result.text)
            self._places[result.line] = _Place(self._own, begin + len(records), size, result.good)
            records += result.text + b"\n"
        await self._write(records)
        for result in results:
            self.tally = self.tally.plus(result)

    async def read(self, *, good: bool | None) -> AsyncGenerator[bytes]:
        """Yield what is told of all lines that ended so (None: anyhow), in order, a line each."""
        places = [self._places[line] for line in sorted(self._places)]
        wanted = [place for place in places if good is None or place.good is good]
        while wanted:
            count, size = 0, 0
            while count < len(wanted) and size < _AT_ONCE:
                size += wanted[count].size
                count += 1
            yield await asyncio.to_thread(_read, wanted[:count])
            del wanted[:count]

    async def _write(self, record: bytes) -> None:
        """Append `record`; what comes while a write is under way shares the next one."""
        self._waiting.append(record)
        self._size += len(record)
        self._added += 1
        mine = self._added
        async with self._turn:
            if self._written >= mine:
                return
            data, self._waiting, upto = b"".join(self._waiting), [], self._added
            await asyncio.to_thread(self._append, data)
            self._written = upto

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._folder.glob(f"*{PART}")):
            self._load(path)
        self._file = self._own.open("xb", buffering=0)
        sync_folder(self._folder)

    def _load(self, path: Path) -> None:
        """Find the results of an earlier run."""
        begin = 0
        with path.open("rb") as file:
            for record in file:
                if not record.endswith(b"\n"):
                    return  # it was cut off
                kind, _, rest = record[:-1].partition(b" ")
                if kind == b"B":
                    moment, *lines = map(int, rest.split())
                    self._begun = dict.fromkeys(lines, moment) | self._begun
                else:
                    *numbers, text = rest.split(b" ", 5)
                    line, good, prompt, cached, completion = map(int, numbers)
                    if line not in self._places:
                        at = begin + len(record) - 1 - len(text)
                        self._places[line] = _Place(path, at, len(text), bool(good))
                        result = Result(line, bool(good), prompt, cached, completion, b"")
                        self.tally = self.tally.plus(result)
                begin += len(record)

    def _append(self, data: bytes) -> None:
        with self._disk:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())

    def _close(self) -> None:
        with self._disk:
            self._file.close()


def _read(places: list[_Place]) -> bytes:
    found: list[bytes] = []
    path, opened = None, None
    try:
        for place in places:
            if opened is None or place.path != path:
                if opened is not None:
                    opened.close()
                path, opened = place.path, place.path.open("rb")
            opened.seek(place.begin)
            found.append(opened.read(place.size) + b"\n")
    finally:
        if opened is not None:
            opened.close()
    return b"".join(found)


async def forget(folder: Path) -> None:
    """Delete the results of a batch that is at its end."""
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
