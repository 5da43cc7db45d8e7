"""What the server measures of itself, to refuse requests in time."""

from contextlib import AsyncExitStack

from galley.core.memory import memory_there_is, resident_memory
from galley.core.metrics import Metrics
from galley.core.settings import Settings
from galley.runtime.background import run
from galley.services.shedding import Shedding

SHARE = 0.9
"""Of the memory there is, where no limit is set."""


def open_shedding(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Shedding:
    """Begin to measure, and show it."""
    shedding = Shedding(
        lambda: metrics.in_flight,
        max_in_flight=settings.max_in_flight,
        resident=resident_memory,
        memory_limit=settings.memory_limit or int(memory_there_is() * SHARE),
        on_lag=metrics.loop_lag.observe,
    )
    run(shedding.keep_time(), stack)
    run(shedding.keep_weight(), stack)
    metrics.watch(
        "galley_pressure", "What there is to do, as a share of what is too much.", "part",
        shedding.gauges,
    )  # fmt: skip
    metrics.watch(
        "galley_requests_shed_total", "Requests that were turned away at the door.", "reason",
        lambda: dict(shedding.refused),
    )  # fmt: skip
    return shedding
