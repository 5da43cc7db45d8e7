"""The one place where Galley's parts are chosen and joined."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uuid_utils
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from galley.core.catalogue import ModelSettings
from galley.core.limits import Counter, Metric
from galley.core.metrics import Metrics
from galley.core.settings import Settings, SettingsError
from galley.db.ledger import Ledger
from galley.db.requests import interrupt_open
from galley.db.session import Database, Sessions, open_database
from galley.db.spent import outcomes, spent
from galley.engines.base import Engine
from galley.engines.llama import LlamaEngine
from galley.engines.onnx_classifier import open_classifier
from galley.engines.onnx_embedder import open_embedder
from galley.engines.openai_http import OpenAIHttpEngine
from galley.services.accounts import Accounts
from galley.services.audit_log import AuditLog
from galley.services.chat import ChatService
from galley.services.embeddings import EmbeddingService
from galley.services.guests import Guests
from galley.services.images import ImageService
from galley.services.instances import Instances
from galley.services.invoices import Invoices
from galley.services.issuers import Issuers
from galley.services.keys import KeyService
from galley.services.limits import LimitsReader
from galley.services.logins import Logins
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.passwords import Passwords
from galley.services.people import People
from galley.services.pricing import Pricing
from galley.services.profiles import Profiles
from galley.services.retention import RetentionService
from galley.services.slots import SlotQueue
from galley.services.sources import SourceError, check_weights, find
from galley.services.tiers import Tiers
from galley.services.tokens import Tokens, signing_secret
from galley.services.usage import UsageService
from galley.stores.limiter import Limiter
from galley.stores.limiter_memory import MemoryLimiter

if TYPE_CHECKING:
    from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that lives as long as the server does."""

    settings: Settings
    database: Database
    accounts: Accounts
    logins: Logins
    limiter: Limiter
    pricing: Pricing
    meter: Meter
    metrics: Metrics
    models: Models
    chat: ChatService
    embeddings: EmbeddingService
    images: ImageService
    usage: UsageService
    invoices: Invoices
    profiles: Profiles
    keys: KeyService
    people: People
    tiers: Tiers
    audit_log: AuditLog
    heavy: Executor
    """One thread for what holds the interpreter, such as reading large bodies, one by one."""

    first_key: str | None
    """The key made on the first start; this is the only place it can be read."""

    async def health(self) -> dict[str, str]:
        """Say of every part `ok`, or what is the matter."""
        parts = {"database": await self._database_health(), "limits": self.limiter.problem or "ok"}
        # Why a model failed is in the log and not for everybody: it names files and addresses.
        return parts | {
            f"model:{model.name}": "failed" if model.state == "failed" else model.problem or "ok"
            for model in self.models.all()
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
        instance_id = str(uuid_utils.uuid7())
        database = await _open_database(settings, instance_id, stack)
        passwords = stack.enter_context(Passwords())
        accounts, logins = _join_accounts(settings, database.sessions, passwords)
        first_key = await accounts.bootstrap(settings.bootstrap_key)
        pricing = Pricing(database.sessions)
        await pricing.seed_free(_local_models(settings))
        _run(pricing.keep_fresh(), stack)
        _run(RetentionService(database.sessions, settings.retention_days).keep(), stack)
        keys = KeyService(database.sessions, accounts)
        limiter = _open_limiter(settings, database.sessions, instance_id, accounts, stack)
        left = LimitsReader(limiter).left
        heavy = stack.enter_context(ThreadPoolExecutor(1, "galley-heavy"))
        ledger = Ledger(database)
        stack.push_async_callback(ledger.aclose)
        models = Models(settings.catalogue)
        stack.push_async_callback(models.aclose)
        _run(models.load(_opener(settings)), stack)
        metrics = Metrics()
        meter = Meter(
            ledger, limiter, pricing, metrics,
            instance_id=instance_id, longest_s=settings.request_timeout,
        )  # fmt: skip
        chat = ChatService(models, meter)
        _watch(metrics, models, chat)
        yield Runtime(
            settings=settings,
            database=database,
            accounts=accounts,
            logins=logins,
            limiter=limiter,
            pricing=pricing,
            meter=meter,
            metrics=metrics,
            models=models,
            chat=chat,
            embeddings=EmbeddingService(models, meter),
            images=ImageService(models, meter),
            usage=UsageService(database.sessions, left),
            invoices=Invoices(database.sessions),
            profiles=Profiles(database.sessions, keys, left),
            keys=keys,
            people=People(database.sessions, accounts, passwords),
            tiers=Tiers(database.sessions, accounts),
            audit_log=AuditLog(database.sessions),
            heavy=heavy,
            first_key=first_key,
        )


async def _open_database(settings: Settings, instance_id: str, stack: AsyncExitStack) -> Database:
    """Open it, and say of what dead servers left open that it was interrupted."""
    url = settings.database_url.get_secret_value()
    database = await stack.enter_async_context(open_database(url))
    if database.path is not None:  # its file is locked, so nobody else is alive
        async with database.sessions.begin() as session:
            await interrupt_open(session, but=[instance_id])
        return database
    instances = Instances(database.sessions, instance_id)
    stack.push_async_callback(instances.aclose)
    await instances.look()
    _run(instances.keep(), stack)
    return database


def _local_models(settings: Settings) -> list[str]:
    """Name the models that run here: they are free until an admin says otherwise."""
    return [n for n, m in settings.catalogue.items() if not m.source.startswith("http")]


def _join_accounts(
    settings: Settings, sessions: Sessions, passwords: Passwords
) -> tuple[Accounts, Logins]:
    """Join what knows tokens with what gives them: they share the secret that signs them."""
    tokens = Tokens(
        signing_secret(settings.jwt_secret, settings.data_dir),
        timedelta(minutes=settings.access_token_minutes),
    )
    guests = Guests(sessions, Issuers(settings.issuers))
    accounts = Accounts(sessions, tokens=tokens, guests=guests)
    lifetime = timedelta(days=settings.refresh_token_days)
    return accounts, Logins(sessions, accounts, tokens, passwords, lifetime=lifetime)


def _open_limiter(
    settings: Settings,
    sessions: Sessions,
    instance_id: str,
    accounts: Accounts,
    stack: AsyncExitStack,
) -> Limiter:
    async def spent_since(counter: Counter, since: datetime) -> int:
        async with sessions() as session:
            return await spent(session, counter, since)

    async def outcomes_of(request_ids: Sequence[str]) -> Mapping[str, Mapping[Metric, int]]:
        async with sessions() as session:
            return await outcomes(session, request_ids)

    if settings.redis_url is None:
        limiter: Limiter = MemoryLimiter(spent_since)
    else:
        redis = _connect_redis(settings.redis_url.get_secret_value())
        from galley.stores.forgetting import Forgetting
        from galley.stores.limiter_redis import RedisLimiter

        stack.push_async_callback(redis.aclose)
        forgetting = Forgetting(redis, accounts.drop)
        stack.push_async_callback(forgetting.aclose)
        accounts.tell = forgetting.tell
        limiter = RedisLimiter(
            redis, spent_since, outcomes_of, instance_id=instance_id, lost=settings.redis_lost
        )
    stack.push_async_callback(limiter.aclose)
    return limiter


def _connect_redis(url: str) -> "Redis":
    try:
        from redis.asyncio import Redis  # an extra: one server does without
    except ModuleNotFoundError as error:
        raise SettingsError(
            "GALLEY_REDIS_URL needs Redis's client. Install it: pip install 'galley[redis]'"
        ) from error
    try:
        return Redis.from_url(url)
    except ValueError:  # the URL may hold a password, so it is not repeated
        raise SettingsError("GALLEY_REDIS_URL is no URL like redis://host:6379/0") from None


def _opener(settings: Settings) -> Callable[[str, ModelSettings], Awaitable[Engine]]:
    async def open_engine(name: str, model: ModelSettings) -> Engine:
        if model.source.startswith("http"):
            return await _open_http(name, model)
        path = find(name, model, settings.models_dir)
        if path is None:
            raise SourceError(f"its files are not here: run `galley models install` ({name})")
        check_weights(model, path)
        return await _open_local(name, model, path)

    return open_engine


async def _open_http(name: str, model: ModelSettings) -> Engine:
    if model.kind != "chat":
        raise SourceError("only chat models can be served by another server yet")
    upstream = model.upstream_model or name
    engine = OpenAIHttpEngine(model.source, upstream, api_key=model.api_key, slots=model.slots)
    await engine.look()
    return engine


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


def _run(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Start background work that ends with the runtime."""
    stack.push_async_callback(_cancel, asyncio.create_task(work))


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
