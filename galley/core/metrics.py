"""What Prometheus sees. Every app has its own registry; labels come from bounded sets only.

Children of labelled metrics are looked up once and kept: `labels()` costs as much as counting.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import cast

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters and histograms of one server; times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "galley_requests", "Requests answered, refused or broken off.",
            ["endpoint", "model", "status"], registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "galley_errors", "Requests that did not succeed, by error code.",
            ["endpoint", "code"], registry=self.registry,
        )  # fmt: skip
        self._duration = Histogram(
            "galley_request_duration_seconds", "From arrival to settlement.",
            ["endpoint", "model"], buckets=_DURATIONS, registry=self.registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "galley_time_to_first_token_seconds", "From arrival to the first piece.",
            ["model"], buckets=_DURATIONS, registry=self.registry,
        )  # fmt: skip
        self._queued = Histogram(
            "galley_queue_wait_seconds", "Waiting for a slot, of requests that had to.",
            ["tier"], buckets=_DURATIONS, registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "galley_tokens", "Tokens read and written.",
            ["model", "kind"], registry=self.registry,
        )  # fmt: skip
        self._jobs = Counter(
            "galley_jobs_ended", "Jobs that ended here.",
            ["kind", "status"], registry=self.registry,
        )  # fmt: skip
        self.in_flight = 0
        Gauge(
            "galley_requests_in_flight", "Requests being answered.", registry=self.registry
        ).set_function(lambda: self.in_flight)
        self.registry.register(_Process())
        self.requests = cache(self._requests.labels)
        self.errors = cache(self._errors.labels)
        self.duration = cache(self._duration.labels)
        self.first_token = cache(self._first_token.labels)
        self.queued = cache(self._queued.labels)
        self.tokens = cache(self._tokens.labels)
        self.jobs = cache(self._jobs.labels)

    def watch(self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]) -> None:
        """Add a gauge whose values, by `label`, are read when Prometheus asks."""
        self.registry.register(_Watched(name, text, label, read))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(
        self, name: str, text: str, label: str, read: Callable[[], dict[str, float]]
    ) -> None:
        self._name, self._text, self._label, self._read = name, text, label, read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for label, value in self._read().items():
            family.add_metric([label], value)
        yield family


class _Process(Collector):
    """This process and its children: on every platform, which the stock collector is not."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "galley_resident_memory_bytes", "Resident memory.", labels=["part"]
        )
        cpu = GaugeMetricFamily(
            "galley_cpu_seconds_total", "User and system CPU time.", labels=["part"]
        )
        children = self._process.children(recursive=True)
        for part, processes in (("server", [self._process]), ("engines", children)):
            used = [found for p in processes if (found := _usage(p)) is not None]
            memory.add_metric([part], sum(m for m, _ in used))
            cpu.add_metric([part], sum(c for _, c in used))
        yield memory
        yield cpu


def _usage(process: psutil.Process) -> tuple[int, float] | None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            rss = cast("int", process.memory_info().rss)
            return rss, times.user + times.system
    except psutil.NoSuchProcess:
        return None
