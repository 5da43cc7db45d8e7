"""What one request may take and has taken, from its arrival to its settlement."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from galley.core.caching import CacheControl
from galley.core.caller import Caller
from galley.core.limits import Metric
from galley.core.tracing import Trace
from galley.db.record import Record
from galley.schemas.delta import Delta, Usage
from galley.schemas.grounding import Grounding
from galley.services.dispatch import Attempt
from galley.services.limits import Headers
from galley.services.pricing import Price
from galley.services.slots import Ticket
from galley.stores.limiter import Demand, Verdict

_NOTHING = Usage()


@dataclass(slots=True)
class Arrival:
    """A request as it came in: its id, the caller's own id, and when (clock and calendar)."""

    request_id: str
    client_request_id: str | None
    began: float = field(default_factory=time.perf_counter)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    traceparent: str | None = None  # the caller's own, where traces are collected

    def elapsed_ms(self) -> float:
        """Milliseconds since it came in."""
        return (time.perf_counter() - self.began) * 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What is reserved under a name; where `model` is set, it counts if that one answers."""

    name: str
    demands: Sequence[Demand]
    model: str | None = None


class Charge:
    """What one request has used so far; whoever does the work fills it in."""

    __slots__ = (
        "_pieces", "_usage",
        "admitted_ms", "arrival", "attempts", "background", "began_ms", "cache_control", "caller",
        "consulted", "filtered", "grounding", "headers", "held", "ignored", "image_input", "most",
        "per_prompt",
        "price", "prices", "record", "settled", "ticket", "trace",
    )  # fmt: skip

    def __init__(self, arrival: Arrival, caller: Caller, record: Record) -> None:
        self.arrival = arrival
        self.caller = caller
        self.record = record
        self.settled = False
        self.background = False  # it is answered while nobody else waits
        self.ticket: Ticket | None = None  # where it had to wait for a model
        self.trace: Trace | None = None  # where traces are collected
        self.cache_control = CacheControl()  # what the caller wishes
        self.per_prompt = 1  # how many answers share one prompt
        self.ignored: Sequence[str] = ()  # fields without meaning here
        self.grounding: Grounding | None = None  # where documents were asked
        self.image_input: Literal["seen", "described"] | None = None  # where there are images
        self.price: Price | None = None
        self.prices: Mapping[str, Price] = {}  # of every model that may answer
        self.most: Mapping[Metric, int] = {}  # what it may take
        self.filtered: dict[tuple[str, str, str, str], int] | None = None  # how often which rule
        self.held: list[Held] = []
        self.attempts: list[Attempt] = []
        self.consulted: list[tuple[Sequence[Demand], Verdict]] = []
        self.admitted_ms: float | None = None  # since it came, as the next one
        self.began_ms: float | None = None  # when a model that has a queue began
        self.headers: Headers = []  # how the caller's limits stand
        self._pieces: dict[int, int] = {}
        self._usage: dict[int, Usage] = {}

    def wait(self, ticket: Ticket) -> None:
        """Note that it waits for a model; of several answers, the first that waits counts."""
        if self.ticket is None or self.ticket.stands is None:
            self.ticket = ticket

    def stands(self) -> tuple[int, int] | None:
        """Its place in the queue, and how many wait; None while it waits in none."""
        return None if self.ticket is None else self.ticket.stands

    def begin(self) -> None:
        """Note that a model begins: the wait for its slot is over."""
        if self.began_ms is None:
            self.began_ms = self.arrival.elapsed_ms()

    def elapsed_ms(self) -> float:
        """How long it has taken; in the background, the wait for a gap costs nobody any time."""
        waited = 0.0
        if self.background and self.began_ms is not None and self.admitted_ms is not None:
            waited = self.began_ms - self.admitted_ms
        return self.arrival.elapsed_ms() - waited

    def note_filtered(self, rule: str, found: str, action: str, side: str, count: int) -> None:
        """Note what a filter rule has found."""
        key = (rule, found, action, side)
        self.filtered = self.filtered or {}
        self.filtered[key] = self.filtered.get(key, 0) + count

    def add(self, pieces: Iterable[Delta]) -> None:
        """Count pieces of answers."""
        for delta in pieces:
            if self.record.first_token_ms is None and (delta.text or delta.tool_calls):
                self.record.first_token_ms = self.elapsed_ms()
            if delta.usage is not None:
                self._usage[delta.index] = delta.usage
            self._pieces[delta.index] = self._pieces.get(delta.index, 0) + delta.tokens

    @property
    def usage(self) -> Usage:
        """All answers' tokens so far; a prompt that several answers share counts once."""
        total = Usage()
        prompts: dict[int, Usage] = {}
        for index, pieces in self._pieces.items():
            found = self._usage.get(index, _NOTHING)
            # Broken off, an answer has no final count: what came is what is billed.
            total.completion_tokens += found.completion_tokens or pieces
            prompt = index // self.per_prompt
            first = prompts.get(prompt)
            if first is None or found.prompt_tokens > first.prompt_tokens:
                prompts[prompt] = found
        for found in prompts.values():
            total.prompt_tokens += found.prompt_tokens
            total.cached_tokens += found.cached_tokens
        return total
