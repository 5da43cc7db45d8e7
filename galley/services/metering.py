"""Hold, then settle: one row per request, whatever way it ends."""

import asyncio
from collections.abc import Mapping, Sequence

from galley.core.caller import Caller
from galley.core.errors import (
    CancelledError,
    GalleyError,
    InternalError,
    OverloadedError,
    RateLimitError,
)
from galley.core.limits import Metric, Rule
from galley.core.metrics import Metrics
from galley.core.money import MICRO
from galley.core.tracing import Tracer, current, step
from galley.db.ledger import Ledger
from galley.db.record import Record
from galley.db.spent import used
from galley.db.tables import State, new_id
from galley.schemas.delta import Usage
from galley.services.charge import Arrival, Charge, Held
from galley.services.limits import demands_of, limit_headers, refusal
from galley.services.pricing import Price, Pricing, cost, cost_of
from galley.services.receipts import receipt_of
from galley.services.spans import told_of, usage_of
from galley.stores.limiter import Limiter

ENDING_S = 1.0
"""What a request that was stopped may take to end, where time has a price."""

_LEAST: Mapping[Metric, int] = {"requests": 1, "concurrency": 1, "tokens": 1}


class Meter:
    """Opens a row when the caller is known, holds their limits, and settles both once.

    Args:
        longest_s: how long a request may run, in seconds; where time has a price, that is the
            most it may cost.
        tracer: collects traces.
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
        tracer: Tracer | None = None,
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._pricing = pricing
        self._metrics = metrics
        self._instance_id = instance_id
        self._longest_s = longest_s
        self._tracer = tracer

    def hold(self, arrival: Arrival, caller: Caller, endpoint: str) -> "Holding":
        """Open a row for a block; on leaving it by error or hang-up, it is settled.

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
        return Holding(self, Charge(arrival, caller, record))

    def open(self, charge: Charge) -> None:
        """Open the row of a request."""
        self._ledger.open(charge.record)
        self._metrics.in_flight += 1
        if self._tracer is not None:
            arrival, endpoint = charge.arrival, charge.record.endpoint
            charge.trace = self._tracer.trace(
                endpoint, elapsed_ms=arrival.elapsed_ms(), parent=arrival.traceparent
            )
            current.set(charge.trace)

    def left(self, charge: Charge) -> None:
        """A request is over."""
        self._metrics.in_flight -= 1
        if charge.trace is not None:
            current.set(None)
            record = charge.record
            error = record.error_code if record.status and record.status >= 500 else None
            charge.trace.end(told_of(charge), usage_of(record), error)

    @property
    def problem(self) -> str | None:
        """What is the matter with the ledger; None when nothing is."""
        return self._ledger.problem

    @property
    def traces(self) -> bool:
        """Whether anybody collects traces."""
        return self._tracer is not None

    async def check(self, charge: Charge) -> None:
        """Send away who has used up a limit, where there is work to do before `admit` can tell.

        It takes nothing.

        Raises:
            RateLimitError: a limit is in the way.
            OverloadedError: the limits cannot be told.
        """
        if not charge.caller.rules:
            return
        charge.most = _LEAST
        await self._reserve(charge, new_id(), charge.caller.rules)
        (held,) = charge.held  # until it is given back: its caller may hang up meanwhile
        await self._limiter.settle(held.name, held.demands, {})
        charge.held.remove(held)
        charge.consulted.clear()

    async def admit(
        self,
        charge: Charge,
        *models: str,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        images: int = 0,
        texts: int = 0,
    ) -> None:
        """Let a request in, with the most that it may take of any of `models` reserved.

        Of several models, `enter` says which one it goes to. Without any, it is free.

        Raises:
            RateLimitError: a limit is in the way; nothing was reserved.
            OverloadedError: a model has no price, or the limits cannot be told.
        """
        caller = charge.caller
        charge.prices = {model: self._price(model) for model in models}
        charge.price = charge.prices[models[0]] if models else None
        rules = caller.rules
        if len(models) == 1 and models[0] in caller.model_rules:
            rules += caller.model_rules[models[0]]
        if not (rules or caller.model_rules):
            charge.admitted_ms = charge.arrival.elapsed_ms()
            return
        charge.most = {
            "requests": 1,
            "concurrency": 1,
            "tokens": prompt_tokens + completion_tokens,
            "images": images,
            "texts": texts,
            "cost": max(
                (
                    cost(
                        price,
                        prompt_tokens=prompt_tokens,
                        completion_tokens=completion_tokens,
                        units=images + texts,
                        seconds=charge.arrival.elapsed_ms() / 1000 + self._longest_s + ENDING_S,
                    )
                    for price in charge.prices.values()
                ),
                default=0,
            ),
        }
        await self._reserve(charge, charge.arrival.request_id, rules)
        charge.admitted_ms = charge.arrival.elapsed_ms()

    async def enter(self, charge: Charge, model: str) -> None:
        """Send a request that was admitted to one of its models, and reserve that one's own limits.

        Raises:
            RateLimitError: a limit on this model is in the way; it may go to another.
        """
        charge.record.served_model = model
        charge.price = charge.prices[model]
        rules = charge.caller.model_rules.get(model)
        if (
            rules
            and len(charge.prices) > 1
            and not any(held.model == model for held in charge.held)
        ):
            await self._reserve(charge, new_id(), rules, model)

    async def _reserve(
        self, charge: Charge, name: str, rules: Sequence[Rule], model: str | None = None
    ) -> None:
        held = Held(name, demands_of(rules, charge.most), model)
        charge.held.append(held)
        with step("limits"):
            verdict = await self._limiter.reserve(name, held.demands)
        charge.consulted.append((held.demands, verdict))
        if model is None:
            charge.headers = limit_headers(held.demands, verdict.states)
        if verdict.refused is not None:
            charge.held.remove(held)
            over = verdict.refused.counter
            self._metrics.refusals(over.metric, over.period).inc()
            raise refusal(verdict, charge.caller)

    def _price(self, model: str) -> Price:
        price = self._pricing.of(model)
        if price is None:
            raise OverloadedError(
                f"The model {model!r} has no price yet, so it cannot be billed. An admin sets one,"
                f" 0 if it is free: galley prices set {model}",
                code="price_unknown",
            )
        return price

    async def settle(self, charge: Charge, error: GalleyError | None = None) -> None:
        """Book a request. Only the first call does anything.

        An answer is on disk when this returns; nobody waits for a refusal to be.

        Raises:
            OverloadedError, InternalError: it could not be written, now or at all; then nothing
                may be answered.
        """
        if charge.settled:
            return
        charge.settled = True
        record = charge.record
        _complete(charge, error)
        record.receipt = receipt_of(charge)
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
            if not comes_again(charge, lost):
                self._ledger.close(record)
            raise
        finally:
            for held in charge.held:
                counts = held.model in (None, record.served_model)
                await self._limiter.settle(held.name, held.demands, taken if counts else {})
            self._count(charge)
            if charge.ticket is not None:
                self._metrics.queued(charge.caller.tier).observe(charge.ticket.waited_s)

    async def postpone(self, charge: Charge) -> None:
        """Give back what is reserved for a request that will come again, under the same id.

        Nothing is booked; a row that is on disk already stays open.
        """
        if not charge.settled:
            charge.settled = True
            self._ledger.forget(charge.record)
            for held in charge.held:
                await self._limiter.settle(held.name, held.demands, {})

    def _count(self, charge: Charge) -> None:
        metrics, record = self._metrics, charge.record
        model = record.served_model or ""
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
        if record.cost:
            metrics.cost(model).inc(record.cost / MICRO)
        for attempt in charge.attempts:
            metrics.attempts(attempt.model, attempt.outcome).inc()


class Holding:
    """The block of a request, with its charge; see `Meter.hold`."""

    __slots__ = ("_charge", "_meter")

    def __init__(self, meter: Meter, charge: Charge) -> None:
        self._meter = meter
        self._charge = charge

    async def __aenter__(self) -> Charge:
        self._meter.open(self._charge)
        return self._charge

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if comes_again(self._charge, error):
                await self._meter.postpone(self._charge)
            elif isinstance(error, GalleyError):
                await self._meter.settle(self._charge, error)
            elif isinstance(error, asyncio.CancelledError):
                # Hang-ups and timeouts have names of their own.
                stopping = OverloadedError(
                    "The server is stopping. Try again in a moment.",
                    code="server_stopping",
                    retry_after=1,
                )
                await self._meter.settle(self._charge, stopping)
                raise stopping from None
            elif error is not None:
                failed = InternalError("The server failed.", code="internal_error")
                await self._meter.settle(self._charge, failed)
        finally:
            self._meter.left(self._charge)


def comes_again(charge: Charge, error: BaseException | None) -> bool:
    """Tell whether a request waits for better times: only one in the background does."""
    if not charge.background:
        return False
    if isinstance(error, RateLimitError):
        return error.should_retry or error.retry_after is not None
    if isinstance(error, OverloadedError):
        return error.retry_after is not None
    return isinstance(error, asyncio.CancelledError)


def _complete(charge: Charge, error: GalleyError | None) -> None:
    """Fill in what a request came to."""
    record = charge.record
    # An answer that was made before has its tokens, and takes none.
    usage = charge.usage if record.cache is None else Usage()
    record.state = _state(error, begun=usage.completion_tokens > 0 or record.units > 0)
    record.status = error.status if error else 200
    record.error_code = (error.code or type(error).__name__) if error else None
    record.prompt_tokens = usage.prompt_tokens or record.prompt_tokens
    record.cached_tokens = usage.cached_tokens
    record.completion_tokens = usage.completion_tokens
    if record.state == "failed" and not usage.completion_tokens:
        record.prompt_tokens = record.cached_tokens = 0  # nothing came of it
    record.response_time_ms = charge.elapsed_ms()
    record.attempts = len(charge.attempts)
    if charge.price is not None and record.state != "refused":
        record.price_id = charge.price.id
        record.cost = cost_of(charge.price, record)


def _state(error: GalleyError | None, *, begun: bool) -> State:
    if error is None:
        return "completed"
    if isinstance(error, CancelledError):
        return "cancelled"
    refused = not begun and (error.status < 500 or error.status == 503)
    return "refused" if refused else "failed"
