"""The files of batches: what is read of one, and what is written when it ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import NamedTuple

from galley.core.caller import Caller
from galley.core.errors import NotFoundError
from galley.db.work_tables import Batch, File
from galley.services.batch_lines import LineError, read_question
from galley.services.batch_results import Results, Tally
from galley.services.batch_shapes import Ended, Part, TellLeft, shape_of
from galley.services.files import FileService, wire_id
from galley.services.job_kinds import derived_id
from galley.services.lines import Line


class Written(NamedTuple):
    """The files that came of a batch, None where there is none, and what its lines came to."""

    output: str | None
    errors: str | None
    tally: Tally


class _Left(NamedTuple):
    """Lines that nobody asks any more: how that is told, why it is, and how many there are."""

    tell: TellLeft | None
    why: str
    lines: int


class BatchFiles:
    """Reads and writes the files of batches.

    Args:
        longest_line: in bytes.
    """

    def __init__(self, files: FileService, longest_line: int) -> None:
        self._files = files
        self._longest_line = longest_line

    async def find(self, caller: Caller, batch: Batch) -> File:
        """Return the file with the lines of `batch`.

        Raises:
            NotFoundError: it is gone.
        """
        return await self._files.find(caller, wire_id(batch.input_file_id))

    def lines(self, file: File) -> AsyncGenerator[list[Line]]:
        """Yield what is in it, many lines at a time."""
        return self._files.read_lines(file, longest=self._longest_line)

    async def write(
        self, caller: Caller, batch: Batch, results: Results, ended: Ended, why: str
    ) -> Written:
        """Write what became of all lines; the same when it is done again."""
        shape, tally = shape_of(batch), results.tally
        tell = shape.left.get(ended)
        count = batch.total - tally.completed - tally.failed if tell else 0
        left = _Left(tell, why, count)
        output = await self._write(caller, batch, results, shape.output, left)
        if shape.errors is None:
            return Written(output, None, tally)
        errors = await self._write(caller, batch, results, shape.errors, left)
        return Written(output, errors, tally._replace(failed=tally.failed + count))

    async def _write(
        self, caller: Caller, batch: Batch, results: Results, part: Part, left: _Left
    ) -> str | None:
        """Make a file of some lines; None where there are none of them."""
        good, bad = results.tally.completed, results.tally.failed + left.lines
        if not {True: good, False: bad, None: good + bad}[part.good]:
            return None
        at = batch.finalizing_at or batch.created_at
        file = await self._files.create(
            caller,
            f"{shape_of(batch).id_of(batch)}_{part.name}.jsonl",
            "batch_output",
            self._told(caller, batch, results, part, left),
            file_id=derived_id(int(at.timestamp() * 1000), batch.id, part.name),
            lifetime_s=batch.output_lifetime_s,
        )
        return file.id

    async def _told(
        self, caller: Caller, batch: Batch, results: Results, part: Part, left: _Left
    ) -> AsyncGenerator[bytes]:
        async for piece in results.read(good=part.good):
            yield piece
        if left.tell is None or part.good:
            return
        with suppress(NotFoundError):  # they may be gone
            async with aclosing(self.lines(await self.find(caller, batch))) as groups:
                async for lines in groups:
                    rest = [line for line in lines if line.number not in results]
                    yield await asyncio.to_thread(_tell, batch, left.tell, rest, left.why)


def _tell(batch: Batch, tell: TellLeft, lines: list[Line], why: str) -> bytes:
    at, told = int(batch.created_at.timestamp() * 1000), list[bytes]()
    for line in lines:
        with suppress(LineError):  # it was another file when it was checked
            question = read_question(line, batch.endpoint)
            told.append(tell(question, derived_id(at, batch.id, str(line.number)), why) + b"\n")
    return b"".join(told)
