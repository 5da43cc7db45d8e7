"""Anthropic's batches: their requests come in one body, and go as one with their results.

What comes in becomes a file of its owner, and from there on it is a batch like any other.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from galley.core.caller import Caller
from galley.core.errors import ConflictError, GalleyError, NotFoundError
from galley.db.batches import ENDED, delete_batch
from galley.db.session import Sessions
from galley.db.tables import utc_now
from galley.db.work_tables import Batch, File
from galley.schemas.batches import BatchParams
from galley.services.batch_jobs import BatchJobs
from galley.services.batch_shapes import ANTHROPIC
from galley.services.batches import Batches
from galley.services.files import FileService, wire_id
from galley.services.jobs import JobService
from galley.services.message_requests import MessageRequests


class MessageBatches(Batches):
    """Looks after the message batches of each user.

    Args:
        longest_line: in bytes.
    """

    def __init__(
        self,
        sessions: Sessions,
        jobs: JobService,
        work: BatchJobs,
        files: FileService,
        *,
        longest_line: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(sessions, jobs, work, ANTHROPIC, clock=clock)
        self._files = files
        self._longest_line = longest_line

    async def make(
        self, caller: Caller, body: bytes | bytearray, *, request_id: str | None = None
    ) -> Batch:
        """Make a batch of the requests in `body`, and have it done.

        Raises:
            BadRequestError: one of them cannot be in a batch; it is named.
            RequestTooLargeError: the caller keeps too many files, or too large ones.
            PermissionDeniedError, RateLimitError: as `create`.
        """
        requests = MessageRequests(body, self._longest_line)
        async with self._files.draft(caller) as draft:
            while lines := await asyncio.to_thread(requests.some):
                await draft.write(lines)
            file = await self._files.keep(caller, draft, "message_batch.jsonl", "batch")
        asked = BatchParams(input_file_id=wire_id(file.id), endpoint="/v1/messages")
        try:
            return await self.create(caller, asked, total=requests.count, request_id=request_id)
        except GalleyError:  # there is no job
            await self._files.delete(caller, asked.input_file_id)
            raise

    async def results(self, caller: Caller, batch_id: str) -> File:
        """Return the file with the results of a batch.

        Raises:
            NotFoundError: they have no such batch, or its results are gone.
            ConflictError: it has not ended.
        """
        batch = await self.find(caller, batch_id)
        _insist_ended(batch, "has no results yet")
        if batch.output_file_id is None:
            raise NotFoundError("The batch has no results.", code="file_not_found")
        return await self._files.find(caller, wire_id(batch.output_file_id))

    async def delete(self, caller: Caller, batch_id: str) -> None:
        """Delete a batch of `caller` with its job, its requests and its results.

        Raises:
            NotFoundError: they have no such batch.
            ConflictError: it has not ended.
        """
        batch = await self.find(caller, batch_id)
        _insist_ended(batch, "cannot be deleted; cancel it first")
        with suppress(NotFoundError):
            await self._jobs.remove(caller, batch.id)  # or it would make the batch again
        for file_id in (batch.input_file_id, batch.output_file_id):
            if file_id is not None:
                with suppress(NotFoundError):
                    await self._files.delete(caller, wire_id(file_id))
        async with self._sessions.begin() as session:
            await delete_batch(session, user_id=caller.user_id, batch_id=batch.id)


def _insist_ended(batch: Batch, otherwise: str) -> None:
    if batch.status not in ENDED:
        raise ConflictError(f"The batch is under way and {otherwise}.", code="batch_not_ended")
