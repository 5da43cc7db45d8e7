"""Batches as jobs: checked, answered, and brought to an end, wherever a crash left them."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, NotFoundError, PermissionDeniedError, RateLimitError
from galley.db.batches import ENDED, add_batch, change_batch, find_batch, has_ended
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.db.work_tables import Batch, File
from galley.schemas.batches import BatchCreate, BatchParams
from galley.services.batch_files import BatchFiles
from galley.services.batch_lines import check_lines
from galley.services.batch_results import Results, forget
from galley.services.batch_run import LineRun
from galley.services.batch_shapes import Ended, shape_of
from galley.services.files import FileService, row_id, wire_id
from galley.services.job_kinds import JobRun
from galley.services.side_door import SideDoor

WINDOW = timedelta(hours=24)
MOST_BYTES = 200_000_000
LOOK_S = 1.0
"""How often its progress is written down, and whether it was cancelled looked up."""
SCOPES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "chat",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
}


class BatchJobs:
    """Does batches.

    Args:
        folder: where results are until a batch has ended.
        longest_line: in bytes.
    """

    def __init__(
        self,
        sessions: Sessions,
        files: FileService,
        answer: SideDoor,
        folder: Path,
        *,
        longest_line: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._files = files
        self._answer = answer
        self._folder = folder
        self._batch_files = BatchFiles(files, longest_line)
        self._clock = clock

    async def check(self, caller: Caller, asked: BatchParams) -> None:
        """Refuse what cannot become a batch.

        Raises:
            PermissionDeniedError: the caller may not ask what its lines ask.
            NotFoundError: they have no such file.
            BadRequestError: it is a file for something else, or too large.
        """
        scope = SCOPES[asked.endpoint]
        if not caller.may(scope):
            raise PermissionDeniedError(
                f"{asked.endpoint} needs the scope `{scope}`, which the key or its owner lacks.",
                code="missing_scope",
            )
        file = await self._files.find(caller, asked.input_file_id)
        if file.purpose != "batch":
            raise BadRequestError(
                f"The file was uploaded for {file.purpose!r}. Upload it with the purpose 'batch'.",
                code="invalid_purpose",
                param="input_file_id",
            )
        if file.size > MOST_BYTES:
            raise BadRequestError(
                f"The file is larger than {MOST_BYTES} bytes, the most a batch may have.",
                code="batch_too_large",
                param="input_file_id",
            )

    async def open(
        self, job_id: str, caller: Caller, asked: BatchCreate | BatchParams, *, total: int = 0
    ) -> Batch:
        """Return the batch of a job, made if it is not there yet.

        Args:
            total: how many lines it has; 0 where nobody has counted them yet.
        """
        now, expiry = self._clock(), asked.output_expires_after
        batch = Batch(
            id=job_id,
            user_id=caller.user_id,
            endpoint=asked.endpoint,
            input_file_id=row_id(asked.input_file_id),
            labels=asked.metadata,
            output_lifetime_s=expiry.seconds if expiry else None,
            total=total,
            created_at=now,
            expires_at=now + WINDOW,
        )
        if (known := await self._find(batch)) is not None:
            return known
        try:
            async with self._sessions.begin() as session:
                await add_batch(session, batch)
        except IntegrityError:  # the job and the request that made it both want it
            batch = await self._current(batch)
        return batch

    async def run(self, run: JobRun) -> dict[str, Any]:
        """Do a batch, or what is left of it.

        Raises:
            BadRequestError: it cannot be done; the batch says why.
            RateLimitError: its owner's limits are used up for a while.
        """
        batch = await self.open(run.id, run.caller, BatchParams.model_validate(dict(run.params)))
        if batch.status not in ENDED:
            async with Results(self._folder / batch.id) as results:
                batch = await self._do(run, batch, results)
            await forget(self._folder / batch.id)
        if batch.status == "failed":
            first = (batch.errors or [{"message": "The batch failed."}])[0]
            raise BadRequestError(first["message"], code="batch_failed")
        return {
            "batch_id": shape_of(batch).id_of(batch),
            "status": batch.status,
            "completed": batch.completed,
            "failed": batch.failed,
            "output_file_id": batch.output_file_id and wire_id(batch.output_file_id),
            "error_file_id": batch.error_file_id and wire_id(batch.error_file_id),
        }

    async def end(
        self, caller: Caller, batch: Batch, ended: Ended, faults: list[dict[str, Any]] | None = None
    ) -> Batch:
        """Bring a batch to an end that nobody works on any more, with what is done of it."""
        try:
            async with Results(self._folder / batch.id) as results:
                # Another server may have ended it, and forgotten the results: first the one, then
                # the other.
                batch = await self._current(batch)
                if batch.status not in ENDED:
                    batch = await self._end(caller, batch, results, ended, faults)
        except FileNotFoundError:
            batch = await self._current(batch)
            if batch.status not in ENDED:
                raise
        await forget(self._folder / batch.id)
        return batch

    async def sweep(self) -> None:
        """Delete what is left of batches that have ended."""
        found = await asyncio.to_thread(lambda: list(self._folder.glob("*")))
        for path in found:
            async with self._sessions() as session:
                ended = await has_ended(session, path.name)
            if ended:
                await forget(path)

    async def _do(self, run: JobRun, batch: Batch, results: Results) -> Batch:
        caller = run.caller
        try:
            file = await self._batch_files.find(caller, batch)
            if batch.status == "validating":
                checked = await check_lines(self._batch_files.lines(file), batch.endpoint)
                if checked.faults:
                    return await self._end(caller, batch, results, "failed", checked.faults)
                batch = await self._change(
                    batch, "validating",
                    status="in_progress", in_progress_at=self._clock(),
                    total=checked.lines, model=checked.model,
                )  # fmt: skip
            work = LineRun(batch, caller, results, self._answer, self._clock)
            await self._attend(run, batch, file, results, work)
            if isinstance(work.ending, RateLimitError):
                raise work.ending
        except NotFoundError as error:
            fault = {"code": error.code, "message": error.message, "param": "input_file_id"}
            return await self._end(caller, batch, results, "failed", [fault])
        return await self._end(caller, batch, results, work.ending or "completed")

    async def _attend(
        self, run: JobRun, batch: Batch, file: File, results: Results, work: LineRun
    ) -> None:
        """Have the lines answered, and look after it meanwhile."""
        await self._look(run, batch, results, work)
        working = asyncio.create_task(work.work(self._batch_files.lines(file)))
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=LOOK_S)
                await self._look(run, batch, results, work)
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _look(self, run: JobRun, batch: Batch, results: Results, work: LineRun) -> None:
        """Write down how far it is; stop the work if it was cancelled, or its time is over."""
        done = results.tally.completed + results.tally.failed
        await run.progress(done, batch.total)
        known = await self._current(batch)
        if done > known.completed + known.failed:
            await self._change(batch, **results.tally._asdict())
        if known.status == "cancelling":
            work.stop("cancelled")
        elif self._clock() >= batch.expires_at and done < batch.total:
            work.stop("expired")

    async def _end(
        self,
        caller: Caller,
        batch: Batch,
        results: Results,
        ended: Ended,
        faults: list[dict[str, Any]] | None = None,
    ) -> Batch:
        """Write the files of what is done; the same when it is done again."""
        if ended == "completed":
            batch = await self._change(batch, "in_progress", status="finalizing")
        if batch.finalizing_at is None:
            batch = await self._change(batch, finalizing_at=self._clock())
        why = str(faults[0]["message"]) if faults else ""
        written = await self._batch_files.write(caller, batch, results, ended, why)
        return await self._change(
            batch,
            status=ended, ended_at=self._clock(), errors=faults,
            output_file_id=written.output, error_file_id=written.errors,
            **written.tally._asdict(),
        )  # fmt: skip

    async def _find(self, batch: Batch) -> Batch | None:
        async with self._sessions() as session:
            return await find_batch(session, user_id=batch.user_id, batch_id=batch.id)

    async def _current(self, batch: Batch) -> Batch:
        return _known(await self._find(batch))

    async def _change(self, batch: Batch, *of: str, **values: Any) -> Batch:
        async with self._sessions.begin() as session:
            await change_batch(session, batch.id, of, **values)
            found = await find_batch(session, user_id=batch.user_id, batch_id=batch.id)
        return _known(found)


def _known(batch: Batch | None) -> Batch:
    if batch is None:
        raise NotFoundError("The batch was deleted.", code="batch_not_found")
    return batch
