"""Hold, then settle: one row per request, whatever way it ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from galley.core.caller import Caller
from galley.core.errors import (
    CancelledError,
    GalleyError,
    InternalError,
    OverloadedError,
)
from galley.core.limits import Metric
from galley.core.metrics import Metrics
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.spent import used
from galley.db.tables import State
from galley.schemas.delta import Delta, Usage
from galley.services.limits import Headers, demands_of, limit_headers, refusal
from galley.services.pricing import Price, Pricing, cost
from galley.stores.limiter import Demand, Limiter, Verdict

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

    __slots__ = (
        "_meter", "_pieces", "_usage",
        "arrival", "caller", "demands", "headers", "per_prompt", "price", "record", "settled",
    )  # fmt: skip

    def __init__(self, meter: "Meter", arrival: Arrival, caller: Caller, record: Record) -> None:
        self.arrival = arrival
        self.caller = caller
        self.record = record
        self.settled = False
        self.per_prompt = 1  # how many answers share one prompt
        self.price: Price | None = None
        self.demands: Sequence[Demand] = ()
        self.headers: Headers = []  # how the caller's limits stand
        self._meter = meter
        self._pieces: dict[int, int] = {}
        self._usage: dict[int, Usage] = {}

    async def admit(
        self,
        model: str,
        *,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        images: int = 0,
        texts: int = 0,
    ) -> None:
        """Let the request in to `model`, with the most that it may take reserved.

        Raises:
            RateLimitError: a limit is in the way; nothing was reserved.
            OverloadedError: the model has no price, or the limits cannot be told.
        """
        most = _Most(prompt_tokens, completion_tokens, images, texts)
        await self._meter.admit(self, model, most)

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


@dataclass(frozen=True, slots=True)
class _Most:
    """The most that a request may take."""

    prompt_tokens: int
    completion_tokens: int
    images: int
    texts: int


class Meter:
    """Opens a row when the caller is known, holds their limits, and settles both once.

    Args:
        longest_s: how long a request may run, in seconds; where time has a price, that is the
            most it may cost.
    """

    def __init__(
        self,
        ledger: Ledger,
        limiter: Limiter,
        pricing: Pricing,
        metrics: Metrics,
        *,
        instance_id: str,
        longest_s: float,
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._pricing = pricing
        self._metrics = metrics
        self._instance_id = instance_id
        self._longest_s = longest_s

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
        charge = Charge(self, arrival, caller, record)
        self._ledger.open(record)
        self._metrics.in_flight.inc()
        try:
            yield charge
        except GalleyError as error:
            await charge.settle(error)
            raise
        except asyncio.CancelledError:  # hang-ups and timeouts have names of their own
            stopping = OverloadedError(
                "The server is stopping. Try again in a moment.",
                code="server_stopping",
                retry_after=1,
            )
            await charge.settle(stopping)
            raise stopping from None
        except BaseException:
            await charge.settle(InternalError("The server failed.", code="internal_error"))
            raise
        finally:
            self._metrics.in_flight.dec()

    async def admit(self, charge: Charge, model: str, most: _Most) -> None:
        """Reserve `most` of what the caller may use of `model`; raises as `Charge.admit`."""
        caller = charge.caller
        price = charge.price = self._pricing.of(model)
        if price is None:
            raise OverloadedError(
                f"The model {model!r} has no price yet, so it cannot be billed. An admin sets one,"
                f" 0 if it is free: galley prices set {model}",
                code="price_unknown",
            )
        if not (caller.rules or model in caller.model_rules):
            return
        amounts: dict[Metric, int] = {
            "requests": 1,
            "concurrency": 1,
            "tokens": most.prompt_tokens + most.completion_tokens,
            "images": most.images,
            "texts": most.texts,
            "cost": cost(
                price,
                prompt_tokens=most.prompt_tokens,
                completion_tokens=most.completion_tokens,
                units=most.images + most.texts,
                seconds=self._longest_s,
            ),
        }
        charge.demands = demands_of(caller, model, amounts)
        verdict = await self._reserve(charge)
        charge.headers = limit_headers(charge.demands, verdict.states)
        if verdict.refused is not None:
            charge.demands = ()
            raise refusal(verdict, caller.tier)

    async def _reserve(self, charge: Charge) -> Verdict:
        """Reserve, to the end: who hangs up meanwhile is settled after it, not before."""
        task = asyncio.ensure_future(
            self._limiter.reserve(charge.arrival.request_id, charge.demands)
        )
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

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
        self._price(charge)
        taken = used(record)
        try:
            if record.state == "refused":
                self._ledger.close(record)
            else:
                await self._ledger.settle(record)
        except GalleyError as lost:
            # Nothing was answered: the row that was opened is closed as soon as that works.
            record.state, record.status, record.error_code = "failed", lost.status, lost.code
            record.cost, record.price_id, taken = 0, None, {}
            self._ledger.close(record)
            raise
        finally:
            if charge.demands:
                await self._limiter.settle(record.request_id, charge.demands, taken)
            self._count(record)

    def _price(self, charge: Charge) -> None:
        record, price = charge.record, charge.price
        if price is None or record.state == "refused":
            return
        record.price_id = price.id
        record.cost = cost(
            price,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            units=record.units,
            seconds=(record.response_time_ms or 0) / 1000,
        )

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
