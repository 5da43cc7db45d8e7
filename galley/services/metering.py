"""Hold, then settle: one row per request, whatever way it ends."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from galley.core.caller import Caller
from galley.core.errors import CancelledError, GalleyError, InternalError
from galley.core.metrics import Metrics
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.tables import State
from galley.schemas.delta import Delta, Usage

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Arrival:
    """A request as it came in: its id, the caller's own id, and when (clock and calendar)."""

    request_id: str
    client_request_id: str | None
    began: float = field(default_factory=time.perf_counter)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def elapsed_ms(self) -> float:
        """Milliseconds since it came in."""
        return (time.perf_counter() - self.began) * 1000


class Charge:
    """What one request has used so far; whoever does the work fills it in."""

    __slots__ = ("_meter", "_pieces", "_usage", "arrival", "per_prompt", "record", "settled")

    def __init__(self, meter: "Meter", arrival: Arrival, record: Record) -> None:
        self.arrival = arrival
        self.record = record
        self.settled = False
        self.per_prompt = 1  # how many answers share one prompt
        self._meter = meter
        self._pieces: dict[int, int] = {}
        self._usage: dict[int, Usage] = {}

    def add(self, delta: Delta) -> None:
        """Count a piece of an answer."""
        if self.record.first_token_ms is None and (delta.text or delta.tool_calls):
            self.record.first_token_ms = self.arrival.elapsed_ms()
        if delta.usage is not None:
            self._usage[delta.index] = delta.usage
        self._pieces[delta.index] = self._pieces.get(delta.index, 0) + delta.tokens

    @property
    def usage(self) -> Usage:
        """All answers' tokens so far; a prompt that several answers share counts once."""
        total = Usage()
        prompts: dict[int, Usage] = {}
        for index, pieces in self._pieces.items():
            found = self._usage.get(index) or Usage()
            # Broken off, an answer has no final count: what came is what is billed.
            total.completion_tokens += found.completion_tokens or pieces
            first = prompts.setdefault(index // self.per_prompt, found)
            if found.prompt_tokens > first.prompt_tokens:
                prompts[index // self.per_prompt] = found
        total.prompt_tokens = sum(found.prompt_tokens for found in prompts.values())
        total.cached_tokens = sum(found.cached_tokens for found in prompts.values())
        return total

    async def settle(self, error: GalleyError | None = None) -> None:
        """Book the request and wait until that is on disk. Only the first call does anything.

        Raises:
            OverloadedError, InternalError: it could not be written, now or at all; then nothing
                may be answered.
        """
        if not self.settled:
            self.settled = True
            await self._meter.book(self, error)


class Meter:
    """Opens a row when the caller is known and settles it once."""

    def __init__(self, ledger: Ledger, metrics: Metrics, instance_id: str) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._instance_id = instance_id

    @asynccontextmanager
    async def hold(self, arrival: Arrival, caller: Caller, endpoint: str) -> AsyncGenerator[Charge]:
        """Open a row for the block; on leaving it by error or hang-up, settle it.

        Success is settled by the block itself, before the last byte of the answer leaves.
        """
        record = Record(
            request_id=arrival.request_id,
            client_request_id=arrival.client_request_id,
            instance_id=self._instance_id,
            user_id=caller.user_id,
            key_id=caller.key_id,
            endpoint=endpoint,
            created_at=arrival.at,
        )
        charge = Charge(self, arrival, record)
        self._ledger.open(record)
        self._metrics.in_flight.inc()
        try:
            yield charge
        except GalleyError as error:
            await charge.settle(error)
            raise
        except BaseException:
            await charge.settle(InternalError("The server failed.", code="internal_error"))
            raise
        finally:
            self._metrics.in_flight.dec()

    async def book(self, charge: Charge, error: GalleyError | None) -> None:
        """Write what `charge` came to. A refusal is not waited for, an answer is."""
        record, usage = charge.record, charge.usage
        record.state = _state(error, begun=usage.completion_tokens > 0)
        record.status = error.status if error else 200
        record.error_code = (error.code or type(error).__name__) if error else None
        record.prompt_tokens = usage.prompt_tokens or record.prompt_tokens
        record.cached_tokens = usage.cached_tokens
        record.completion_tokens = usage.completion_tokens
        record.response_time_ms = charge.arrival.elapsed_ms()
        committed = self._ledger.settle(record)
        try:
            if record.state != "refused":
                await committed
        except GalleyError as lost:
            # Nothing was answered: the row that was opened is closed as soon as that works.
            record.state, record.status, record.error_code = "failed", lost.status, lost.code
            self._ledger.settle(record)
            raise
        finally:
            self._count(record)

    def _count(self, record: Record) -> None:
        metrics, model = self._metrics, record.served_model or ""
        metrics.requests(record.endpoint, model, str(record.status)).inc()
        metrics.duration(record.endpoint, model).observe((record.response_time_ms or 0) / 1000)
        if record.error_code is not None:
            metrics.errors(record.endpoint, record.error_code).inc()
        if record.first_token_ms is not None:
            metrics.first_token(model).observe(record.first_token_ms / 1000)
        if record.prompt_tokens:
            metrics.tokens(model, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens:
            metrics.tokens(model, "completion").inc(record.completion_tokens)


def _state(error: GalleyError | None, *, begun: bool) -> State:
    if error is None:
        return "completed"
    if isinstance(error, CancelledError):
        return "cancelled"
    refused = error.status < 500 or (error.status == 503 and not begun)
    return "refused" if refused else "failed"
