"""The job that writes a user's requests to a file."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

import orjson

from galley.db.session import Sessions
from galley.db.tables import ApiRequest, utc_now
from galley.db.walks import Stretch, count_requests, walk_requests
from galley.schemas.jobs import ExportParams
from galley.schemas.usage import RequestReply
from galley.services.files import FileService, wire_id
from galley.services.job_kinds import JobRun
from galley.services.usage import told

COLUMNS = tuple(name for name in RequestReply.model_fields if name != "object")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Exports:
    """Writes files of requests, the oldest first."""

    def __init__(
        self, sessions: Sessions, files: FileService, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._sessions = sessions
        self._files = files
        self._clock = clock

    async def run(self, run: JobRun) -> dict[str, Any]:
        """Write the requests of some days; a second attempt writes the same file anew."""
        params = ExportParams.model_validate(run.params)
        until = self._clock()
        today = until.replace(hour=0, minute=0, second=0, microsecond=0)
        since = today - timedelta(days=params.days - 1)
        stretch = Stretch(run.caller.user_id, since, until)
        total, done = await count_requests(self._sessions, stretch), 0

        async def written() -> AsyncGenerator[bytes]:
            nonlocal done
            if params.format == "csv":
                yield _csv([COLUMNS])
            walk = walk_requests(self._sessions, stretch, ApiRequest)
            async with aclosing(walk) as pages:
                async for rows in pages:
                    found = [told(row[1]) for row in rows]
                    yield (_table if params.format == "csv" else _lines)(found)
                    done += len(rows)
                    await run.progress(done, max(done, total), "requests written")

        await run.progress(0, total, "requests written")
        name = f"requests-{since:%Y-%m-%d}-{until:%Y-%m-%d}.{params.format}"
        file = await self._files.create(run.caller, name, "user_data", written(), file_id=run.id)
        return {
            "file_id": wire_id(file.id), "filename": file.name, "bytes": file.size,
            "requests": done, "from": since.isoformat(), "to": until.isoformat(),
        }  # fmt: skip


def _lines(found: Sequence[dict[str, Any]]) -> bytes:
    replies = (RequestReply.model_validate(row).model_dump(mode="json") for row in found)
    return b"".join(orjson.dumps(reply) + b"\n" for reply in replies)


def _table(found: Sequence[dict[str, Any]]) -> bytes:
    replies = (RequestReply.model_validate(row).model_dump(mode="json") for row in found)
    return _csv([[_cell(reply[name]) for name in COLUMNS] for reply in replies])


def _cell(value: Any) -> Any:
    """Write a list with spaces between, and keep spreadsheets from computing what users wrote."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
