"""What Prometheus sees. Every app has its own registry; labels come from bounded sets only.

Names follow Prometheus' conventions: base units, `_total` for what only grows, `_info` for what
is always 1. Children of labelled metrics are looked up once and kept: `labels()` costs as much as
counting.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of what is rendered."""

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_COMMITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

Values = Mapping[str, float] | Mapping[tuple[str, ...], float]
"""Numbers by the value of their label, or by those of several."""


class Metrics:
    """Counters and histograms of one server; times in seconds, money in dollars."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = 0
        self._watched: list[_Watched] = []
        self._rendering = asyncio.Lock()
        self._count_requests()
        self._count_parts()

    def _count_requests(self) -> None:
        self.requests = self._counter(
            "galley_requests", "Requests answered, refused or broken off.",
            "endpoint", "model", "status",
        )  # fmt: skip
        self.errors = self._counter(
            "galley_errors", "Requests that did not succeed, by error code.", "endpoint", "code"
        )
        self.duration = self._histogram(
            "galley_request_duration_seconds", "From arrival to settlement.",
            _DURATIONS, "endpoint", "model",
        )  # fmt: skip
        self.first_token = self._histogram(
            "galley_time_to_first_token_seconds", "From arrival to the first piece.",
            _DURATIONS, "model",
        )  # fmt: skip
        self.queued = self._histogram(
            "galley_queue_wait_seconds", "Waiting for a slot, of requests that had to.",
            _DURATIONS, "tier",
        )  # fmt: skip
        self.tokens = self._counter("galley_tokens", "Tokens read and written.", "model", "kind")
        self.cost = self._counter("galley_cost_dollars", "What was billed, in dollars.", "model")
        self.attempts = self._counter(
            "galley_attempts", "Calls of models, by how they ended.", "model", "outcome"
        )
        self.refusals = self._counter(
            "galley_limit_refusals", "Requests over a limit, by which.", "metric", "period"
        )
        Gauge(
            "galley_requests_in_flight", "Requests being answered.", registry=self.registry
        ).set_function(lambda: self.in_flight)

    def _count_parts(self) -> None:
        self.responses = self._counter(
            "galley_http_responses", "Answers over HTTP, of all routes but probes.", "status"
        )
        self.jobs = self._counter("galley_jobs_ended", "Jobs that ended here.", "kind", "status")
        self._commits = Histogram(
            "galley_ledger_commit_duration_seconds", "Writing a batch of rows to disk.",
            buckets=_COMMITS, registry=self.registry,
        )  # fmt: skip
        self._failed_commits = Counter(
            "galley_ledger_commit_failures", "Batches that could not be written.",
            registry=self.registry,
        )  # fmt: skip
        self.loop_lag = Histogram(
            "galley_event_loop_lag_seconds", "How late the event loop wakes who is due.",
            buckets=_LAGS, registry=self.registry,
        )  # fmt: skip

    def committed(self, seconds: float, succeeded: bool) -> None:
        """The ledger has written a batch, or could not."""
        self._commits.observe(seconds)
        if not succeeded:
            self._failed_commits.inc()

    def watch(
        self, name: str, text: str, label: str | Sequence[str], read: Callable[[], Values]
    ) -> None:
        """Add a metric that is read on the event loop when Prometheus asks.

        Args:
            name: of a counter when it ends in `_total`, else of a gauge.
            label: or several, or none; `read` gives the numbers by their values.
        """
        labels = (label,) if isinstance(label, str) else tuple(label)
        self._watched.append(_Watched(name, text, labels, read))
        self.registry.register(self._watched[-1])

    async def render(self) -> bytes:
        """Return everything in Prometheus' text format, version 0.0.4."""
        async with self._rendering:
            for watched in self._watched:
                watched.look()
            return await asyncio.to_thread(generate_latest, _WithoutBirthdays(self.registry))

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        return cache(Counter(name, text, labels, registry=self.registry).labels)

    def _histogram(
        self, name: str, text: str, buckets: Sequence[float], *labels: str
    ) -> Callable[..., Histogram]:
        made = Histogram(name, text, labels, buckets=buckets, registry=self.registry)
        return cache(made.labels)


class _Watched(Collector):
    """What was read last; the page is written on another thread."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], read: Callable[[], Values]
    ) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read
        self._values: Values = {}

    def look(self) -> None:
        self._values = self._read()

    def collect(self) -> Iterator[Metric]:
        kind = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        family = kind(self._name, self._text, labels=self._labels)
        for label, value in self._values.items():
            family.add_metric((label,) if isinstance(label, str) else label, value)
        yield family


class _WithoutBirthdays(Collector):
    """All but when each counter was made: Prometheus has no use for it, and it is half the page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
