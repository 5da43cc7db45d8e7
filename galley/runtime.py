"""The one place where Galley's parts are chosen and joined."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uuid_utils
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from galley.core.metrics import Metrics
from galley.core.settings import ModelSettings, Settings
from galley.db.ledger import Ledger
from galley.db.requests import interrupt_open
from galley.db.session import Database, open_database
from galley.engines.base import Engine
from galley.engines.llama import LlamaEngine
from galley.engines.onnx_classifier import open_classifier
from galley.engines.onnx_embedder import open_embedder
from galley.engines.openai_http import OpenAIHttpEngine
from galley.services.accounts import Accounts
from galley.services.chat import ChatService
from galley.services.embeddings import EmbeddingService
from galley.services.images import ImageService
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.slots import SlotQueue
from galley.services.sources import SourceError, find
from galley.services.usage import UsageService


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that lives as long as the server does."""

    settings: Settings
    database: Database
    accounts: Accounts
    meter: Meter
    metrics: Metrics
    models: Models
    chat: ChatService
    embeddings: EmbeddingService
    images: ImageService
    usage: UsageService
    first_key: str | None
    """The key made on the first start; this is the only place it can be read."""

    async def health(self) -> dict[str, str]:
        """Say of every part `ok`, or what is the matter."""
        return {"database": await self._database_health()} | {
            f"model:{model.name}": model.problem or "ok" for model in self.models.all()
        }

    async def _database_health(self) -> str:
        try:
            async with asyncio.timeout(2), self.database.sessions() as session:
                await session.execute(select(1))
        except (SQLAlchemyError, OSError, TimeoutError):
            return "not answering"
        return "ok"


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncGenerator[Runtime]:
    """Build every part from `settings`; close them in reverse order on leaving.

    Models load in the background: the server answers before they do.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url.get_secret_value())
        )
        instance_id = str(uuid_utils.uuid7())
        async with database.sessions.begin() as session:
            await interrupt_open(session, instance_id=instance_id)
        accounts = Accounts(database.sessions)
        first_key = await accounts.bootstrap(settings.bootstrap_key)
        ledger = Ledger(database)
        stack.push_async_callback(ledger.aclose)
        models = Models(settings.catalogue)
        stack.push_async_callback(models.aclose)
        loading = asyncio.create_task(models.load(_opener(settings)))
        stack.push_async_callback(_cancel, loading)
        metrics = Metrics()
        chat = ChatService(models)
        _watch(metrics, models, chat)
        yield Runtime(
            settings=settings,
            database=database,
            accounts=accounts,
            meter=Meter(ledger, metrics, instance_id),
            metrics=metrics,
            models=models,
            chat=chat,
            embeddings=EmbeddingService(models),
            images=ImageService(models),
            usage=UsageService(database.sessions),
            first_key=first_key,
        )


def _opener(settings: Settings) -> Callable[[str, ModelSettings], Awaitable[Engine]]:
    async def open_engine(name: str, model: ModelSettings) -> Engine:
        if model.source.startswith("http"):
            return _open_http(name, model)
        path = find(name, model, settings.models_dir)
        if path is None:
            raise SourceError(f"its files are not here: run `galley models install` ({name})")
        return await _open_local(name, model, path)

    return open_engine


def _open_http(name: str, model: ModelSettings) -> Engine:
    if model.kind != "chat":
        raise SourceError(f"{name}: only chat models can be served by another server yet")
    upstream = model.upstream_model or name
    return OpenAIHttpEngine(model.source, upstream, api_key=model.api_key, slots=model.slots)


async def _open_local(name: str, model: ModelSettings, path: Path) -> Engine:
    if model.kind == "chat":
        engine = LlamaEngine(name, path, model)
        await engine.start()
        return engine
    open_onnx = open_embedder if model.kind == "embeddings" else open_classifier
    return await asyncio.to_thread(open_onnx, path, model.threads)


def _watch(metrics: Metrics, models: Models, chat: ChatService) -> None:
    def queues() -> dict[str, SlotQueue]:
        return {model.name: chat.queue(model) for model in models.loaded_chat()}

    metrics.watch(
        "galley_queue_length", "Requests waiting for a slot.", "model",
        lambda: {name: queue.waiting for name, queue in queues().items()},
    )  # fmt: skip
    metrics.watch(
        "galley_slots", "Answers a model can make at the same time.", "model",
        lambda: {name: queue.slots for name, queue in queues().items()},
    )  # fmt: skip
    metrics.watch(
        "galley_slots_busy", "Answers being made.", "model",
        lambda: {name: queue.busy for name, queue in queues().items()},
    )  # fmt: skip


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
