"""The ledger: answered means recorded, at one commit for many requests.

While a batch is being committed, whatever comes in queues up and is the next batch. Nobody waits
for company, except for a moment and where company is near: a commit costs as much as ten rows do.
A request that settles within `OPEN_AFTER_S` is one insert.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from galley.core.errors import GalleyError, InternalError, OverloadedError
from galley.db.ledger_postgres import PostgresWriter
from galley.db.ledger_sqlite import SqliteWriter
from galley.db.record import STATE, Done, Record, RefusedRowError, Row
from galley.db.session import Database

log = structlog.get_logger()

# Only a crash tells whether an open row was on disk: who is answered sooner need not have one.
OPEN_AFTER_S = 0.05
# So many requests that have just begun are company near, and this is the moment.
COMPANY = 4
MOMENT_S = 0.001
# How soon what could not be written is tried again, and how many requests are kept for that.
AGAIN_AFTER_S = 1.0
MOST_KEPT = 10_000


class Writer(Protocol):
    """Puts rows on disk."""

    def write(self, rows: Sequence[Row], done: Done) -> None:
        """Commit `rows` and their hourly sums in one transaction, then call `done`.

        A request that was settled before stays as it is and adds nothing to the sums. `done` is
        called on the event loop's thread, with None or what went wrong (a `RefusedRowError` if
        it was a row's fault); the next `write` comes after it.
        """
        ...

    async def aclose(self) -> None:
        """Free the connection."""
        ...


@dataclass(slots=True)
class Batch:
    """What shares a commit: the latest row of each request, and who waits for it."""

    rows: dict[str, Row] = field(default_factory=dict[str, Row])
    waiters: list[tuple[str, asyncio.Future[None]]] = field(
        default_factory=list[tuple[str, asyncio.Future[None]]]
    )

    def split(self) -> list["Batch"]:
        """Make one batch of each row."""
        singles = {key: Batch({key: row}) for key, row in self.rows.items()}
        for waiter in self.waiters:
            singles[waiter[0]].waiters.append(waiter)
        return list(singles.values())


OnCommit = Callable[[float, bool], None]
"""Is told how many seconds a batch took, and whether it is on disk."""


def _nobody(_: float, __: bool) -> None: ...


class Ledger:
    """Records requests in batches. Belongs to the event loop it was made on.

    When a commit fails, whoever waits for it gets an `OverloadedError` (code
    `ledger_unavailable`), the log gets one line, and the next batch is tried afresh: what could
    not be recorded is neither answered nor billed. A row that the database does not take fails
    alone, with an `InternalError`.

    Args:
        on_commit: is told of every batch.
    """

    def __init__(self, database: Database, on_commit: OnCommit = _nobody) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_commit = on_commit
        self._writer: Writer = (
            SqliteWriter(database.path, database.busy_timeout_s)
            if database.path
            else PostgresWriter(database.engine)
        )
        self._context = contextvars.copy_context()  # or our log lines would name some request
        self._fresh: dict[str, Row] = {}
        self._opening: asyncio.TimerHandle | None = None
        self._kept: dict[str, Row] = {}
        self._again: asyncio.TimerHandle | None = None
        self._queued = Batch()
        self._writing = Batch()
        self._singles: deque[Batch] = deque()
        self._at_work = False
        self._failing = False
        self._rested = asyncio.Event()
        self._closed = False

    @property
    def problem(self) -> str | None:
        """What is the matter while rows wait that the last commit could not write."""
        return "cannot be written" if self._failing and self._kept else None

    @property
    def waiting(self) -> int:
        """How many rows are to be written, or being written."""
        alone = sum(len(batch.rows) for batch in self._singles)
        return alone + len(self._queued.rows.keys() | self._kept.keys() | self._writing.rows.keys())

    def open(self, record: Record) -> None:
        """Queue `record` as it is now, to be written soon; nobody waits for it."""
        self._fresh[record.request_id] = record.row()
        if self._opening is None:
            self._opening = self._loop.call_later(
                OPEN_AFTER_S, self._open_fresh, context=self._context
            )

    def forget(self, record: Record) -> None:
        """Take back what was opened, if it is not on its way already: it will be opened again."""
        self._fresh.pop(record.request_id, None)

    def settle(self, record: Record) -> asyncio.Future[None]:
        """Queue `record` in its final state; of several settlements the first counts.

        Returns:
            A future that is done when the row is on disk. It need not be awaited. It raises
            `OverloadedError` when nothing can be recorded now and `InternalError` when the
            database does not take this row; either way nothing was billed.
        """
        self._fresh.pop(record.request_id, None)
        queued = self._queued
        known = queued.rows.get(record.request_id)
        if known is None or known[STATE] == "open":
            queued.rows[record.request_id] = record.row()
        done = self._loop.create_future()
        queued.waiters.append((record.request_id, done))
        if not self._at_work:
            self._wake()
        return done

    def close(self, record: Record) -> None:
        """Queue `record` in its final state; nobody waits, so it is tried until it is written."""
        self._fresh.pop(record.request_id, None)
        self._kept[record.request_id] = record.row()
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        if not self._at_work and self._again is None:
            self._wake()

    async def aclose(self) -> None:
        """Write what is queued, then stop; nothing may be opened or settled after it."""
        if self._again is not None:
            self._again.cancel()
            self._try_again()
        if self._opening is not None:
            self._opening.cancel()
            self._open_fresh()
        if self._at_work:
            self._rested.clear()
            await self._rested.wait()
        if not self._closed:
            self._closed = True
            if self._again is not None:  # the last try failed as well
                self._again.cancel()
            await self._writer.aclose()

    def _open_fresh(self) -> None:
        self._opening = None
        if self._fresh:
            for request_id, row in self._fresh.items():
                self._queued.rows.setdefault(request_id, row)
            self._fresh.clear()
            if not self._at_work:
                self._wake()

    def _wake(self) -> None:
        if self._closed:
            raise RuntimeError("the ledger is closed")
        self._at_work = True
        self._write_soon()

    def _write_soon(self) -> None:
        if len(self._fresh) >= COMPANY:
            self._loop.call_later(MOMENT_S, self._write_next, context=self._context)
        else:  # at the end of this turn of the loop, so that all of it shares a commit
            self._loop.call_soon(self._write_next, context=self._context)

    def _write_next(self) -> None:
        if self._singles:
            batch = self._singles.popleft()
        elif self._queued.rows or (self._kept and self._again is None):
            batch, self._queued = self._queued, Batch()
            batch.rows = self._kept | batch.rows
        else:
            self._at_work = False
            self._rested.set()
            return
        self._writing, began = batch, time.perf_counter()

        def done(error: Exception | None) -> None:
            self._on_commit(time.perf_counter() - began, error is None)
            self._writing = Batch()
            self._written(batch, error)

        self._writer.write(list(batch.rows.values()), done)

    def _written(self, batch: Batch, error: Exception | None) -> None:
        if isinstance(error, RefusedRowError) and len(batch.rows) > 1:
            self._singles.extend(batch.split())  # find the culprit, and spare the others
        else:
            self._failing = error is not None and not isinstance(error, RefusedRowError)
            if error:
                reason = str(error).partition("\n")[0]
                log.error("ledger_commit_failed", rows=len(batch.rows), error=reason)
            self._keep(batch, error)
            _release(batch, error)
        self._write_soon()

    def _keep(self, batch: Batch, error: Exception | None) -> None:
        """Forget what is written or never will be; see to it that the rest is tried again."""
        if not self._kept:
            return
        if error is None or isinstance(error, RefusedRowError):
            for request_id, row in batch.rows.items():
                if self._kept.get(request_id) is row:
                    del self._kept[request_id]
        elif self._again is None and not self._closed:
            self._again = self._loop.call_later(
                AGAIN_AFTER_S, self._try_again, context=self._context
            )

    def _try_again(self) -> None:
        self._again = None
        if not self._at_work:
            self._wake()


def _release(batch: Batch, error: Exception | None) -> None:
    for _, waiter in batch.waiters:
        if waiter.done():  # by being cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(_in_words(error))
            waiter.exception()  # seen: who did not want to wait does not want to hear of it either


def _in_words(error: Exception) -> GalleyError:
    told: GalleyError
    if isinstance(error, RefusedRowError):
        told = InternalError("The request could not be recorded.", code="ledger_refused")
    else:
        told = OverloadedError(
            "The request could not be recorded, so it is not answered and not billed. Try again.",
            code="ledger_unavailable",
            retry_after=1.0,
        )
    told.__cause__ = error
    return told
