"""What is read of the parts when Prometheus asks; what happens is counted where it happens."""

from collections.abc import Iterator
from typing import get_args

from galley.core.metrics import Metrics
from galley.core.process import DiskCollector, GpuCollector, ProcessCollector
from galley.core.settings import Settings
from galley.engines.base import Engine
from galley.services.breaker import State
from galley.services.caching import AnswerCache
from galley.services.chat import ChatService
from galley.services.models import Models, Replica
from galley.services.slots import SlotQueue
from galley.stores.limiter import Limiter


def watch(
    metrics: Metrics,
    settings: Settings,
    limiter: Limiter,
    models: Models,
    chat: ChatService,
    answers: AnswerCache,
) -> None:
    """Show how the parts are, and what the process takes of its machine."""
    _watch_models(metrics, models)
    _watch_queues(metrics, models, chat)
    metrics.watch(
        "galley_cache_lookups_total", "Requests that looked for an answer in the cache.", "verdict",
        lambda: dict(answers.counts),
    )  # fmt: skip
    metrics.watch(
        "galley_limits_lost", "1 while Redis, which has the limits, does not answer.", (),
        lambda: {(): float(limiter.problem is not None)},
    )  # fmt: skip
    for collector in (ProcessCollector(), DiskCollector(settings.data_dir), GpuCollector()):
        metrics.registry.register(collector)


def _watch_models(metrics: Metrics, models: Models) -> None:
    """Show which models and which of the servers behind them can answer."""

    def replicas() -> Iterator[tuple[str, str, Replica[Engine]]]:
        for model in models.all():
            for number, replica in enumerate(model.replicas):
                yield model.name, str(number), replica

    metrics.watch(
        "galley_model_up", "1 while a model can answer.", "model",
        lambda: {model.name: float(model.problem is None) for model in models.all()},
    )  # fmt: skip
    metrics.watch(
        "galley_backend_up", "1 while a server, or a process, that runs a model answers.",
        ("model", "replica"),
        lambda: {
            (name, number): float(replica.engine.problem is None)
            for name, number, replica in replicas()
        },
    )  # fmt: skip
    metrics.watch(
        "galley_breaker_state", "1 for the state that the breaker in front of a server is in.",
        ("model", "replica", "state"),
        lambda: {
            (name, number, state): float(replica.breaker.state == state)
            for name, number, replica in replicas()
            for state in get_args(State)
        },
    )  # fmt: skip


def _watch_queues(metrics: Metrics, models: Models, chat: ChatService) -> None:
    """Show who waits for a model."""

    def queues() -> dict[str, SlotQueue]:
        return {model.name: chat.queue(model) for model in models.loaded_chat()}

    metrics.watch(
        "galley_queue_length", "Requests waiting for a slot.", "model",
        lambda: {name: queue.waiting for name, queue in queues().items()},
    )  # fmt: skip
    metrics.watch(
        "galley_queue_background_length", "Requests in the background waiting for a slot.", "model",
        lambda: {name: queue.back.waiting for name, queue in queues().items()},
    )  # fmt: skip
    metrics.watch(
        "galley_slots", "Answers a model can make at the same time.", "model",
        lambda: {name: queue.slots for name, queue in queues().items()},
    )  # fmt: skip
    metrics.watch(
        "galley_slots_busy", "Answers being made.", "model",
        lambda: {name: queue.busy for name, queue in queues().items()},
    )  # fmt: skip
