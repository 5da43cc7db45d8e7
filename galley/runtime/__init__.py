"""The one place where Galley's parts are chosen and joined."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import uuid_utils
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from galley.core.metrics import Metrics
from galley.core.settings import Settings
from galley.db.claim import Claim
from galley.db.ledger import Ledger
from galley.db.requests import interrupt_open
from galley.db.session import Database, Sessions, open_database
from galley.runtime.background import run as _run
from galley.runtime.caches import open_cache
from galley.runtime.claims import claim_database
from galley.runtime.documents import Documents, open_documents
from galley.runtime.engines import engine_opener
from galley.runtime.jobs import Jobs, index_later, open_work
from galley.runtime.limits import open_limiter
from galley.runtime.shedding import open_shedding
from galley.runtime.tracing import open_tracer
from galley.runtime.waiting import until_redis, until_there
from galley.runtime.watching import watch
from galley.services.accounts import Accounts
from galley.services.audit_log import AuditLog
from galley.services.batches import Batches
from galley.services.caching import AnswerCache
from galley.services.chat import ChatService
from galley.services.definitions import Definitions
from galley.services.dispatch import Dispatch
from galley.services.embeddings import EmbeddingService
from galley.services.experiments import Experiments
from galley.services.files import FileService
from galley.services.guests import Guests
from galley.services.images import ImageService
from galley.services.instances import Instances
from galley.services.invoices import Invoices
from galley.services.issuers import Issuers
from galley.services.keys import KeyService
from galley.services.limits import LimitsReader
from galley.services.logins import Logins
from galley.services.message_batches import MessageBatches
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.moderation import MODEL as MODERATION
from galley.services.moderation import ModerationService
from galley.services.months import Months
from galley.services.passwords import Passwords
from galley.services.people import People
from galley.services.pictures import PictureService
from galley.services.pricing import Pricing
from galley.services.profiles import Profiles
from galley.services.receipts import Receipts
from galley.services.rerank import RerankService
from galley.services.responses import ResponseService
from galley.services.retention import RetentionService
from galley.services.shedding import Shedding
from galley.services.side_door import Answered, Asked
from galley.services.tiers import Tiers
from galley.services.tokens import Tokens, signing_secret
from galley.services.usage import UsageService
from galley.services.vector_cache import VectorCache
from galley.stores.limiter import Limiter


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
    definitions: Definitions
    chat: ChatService
    responses: ResponseService
    embeddings: EmbeddingService
    rerank: RerankService
    images: ImageService
    files: FileService
    documents: Documents
    moderation: ModerationService
    usage: UsageService
    receipts: Receipts
    experiments: Experiments
    invoices: Invoices
    profiles: Profiles
    keys: KeyService
    people: People
    tiers: Tiers
    audit_log: AuditLog
    jobs: Jobs
    batches: Batches
    message_batches: MessageBatches
    shedding: Shedding
    claim: Claim | None
    heavy: Executor
    """One thread for what holds the interpreter, such as reading large bodies, one by one."""

    first_key: str | None
    """The key made on the first start; this is the only place it can be read."""

    async def health(self) -> dict[str, str]:
        """Say of every part `ok`, or what is the matter."""
        parts = {"database": await self._database_health(), "limits": self.limiter.problem or "ok"}
        parts |= self.shedding.parts()
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
        claimed = self.claim.problem if self.claim is not None else None
        return claimed or self.meter.problem or "ok"


Door = Callable[[Runtime, Asked], Awaitable[Answered]]
"""Answers requests that do not come over HTTP; `routers/side_door.py` has it."""


@asynccontextmanager
async def open_runtime(
    settings: Settings, door: Door, *, is_worker: bool = False
) -> AsyncGenerator[Runtime]:
    """Build every part from `settings`; close them in reverse order on leaving.

    Models load in the background: the server answers before they do.
    """
    async with AsyncExitStack() as stack:
        instance_id = str(uuid_utils.uuid7())
        database, claim = await _open_database(settings, instance_id, stack, is_worker=is_worker)
        accounts, logins, people = _join_accounts(settings, database.sessions, stack)
        first_key = await accounts.bootstrap(settings.bootstrap_key)
        pricing = await _open_pricing(settings, database.sessions, stack)
        keys = KeyService(database.sessions, accounts)
        limiter = open_limiter(settings, database.sessions, instance_id, accounts, stack)
        left = LimitsReader(limiter).left
        metrics, heavy = Metrics(), stack.enter_context(ThreadPoolExecutor(1, "galley-heavy"))
        models, definitions = await _open_models(settings, database.sessions, stack)
        meter = _open_meter(settings, database, limiter, pricing, metrics, instance_id, stack)
        dispatch, pictures = Dispatch(), _open_pictures(models, stack)
        vectors, answers = _open_caches(settings, models, stack)
        documents = await open_documents(
            settings, database, models, meter, dispatch, stack,
            lambda caller, document_ids: index_later(runtime.jobs, caller, document_ids),
            is_worker=is_worker,
        )  # fmt: skip
        chat = ChatService(models, meter, dispatch, pictures, answers, documents.grounding, heavy)
        watch(metrics, settings, limiter, models, chat, answers)
        embeddings = EmbeddingService(models, meter, dispatch, vectors)
        work = await open_work(
            settings, database, accounts, metrics, meter, embeddings, documents.job, stack,
            lambda asked: door(runtime, asked), is_worker=is_worker,
        )  # fmt: skip
        runtime: Runtime = Runtime(  # before the first job: nothing is awaited in between
            settings=settings, database=database, accounts=accounts, logins=logins,
            limiter=limiter, pricing=pricing, meter=meter, metrics=metrics,
            models=models, definitions=definitions, chat=chat,
            responses=ResponseService(database.sessions, chat, most_bytes=settings.body_limit),
            embeddings=embeddings,
            rerank=RerankService(models, meter, dispatch),
            images=ImageService(models, meter),
            files=work.files, documents=documents,
            moderation=ModerationService(models, meter, dispatch, heavy),
            usage=UsageService(database.sessions, left),
            receipts=Receipts(database.sessions, days=settings.receipt_retention_days),
            experiments=Experiments(database.sessions, models),
            invoices=Invoices(database.sessions),
            profiles=Profiles(database.sessions, keys, left),
            keys=keys,
            people=people,
            tiers=Tiers(database.sessions, accounts),
            audit_log=AuditLog(database.sessions),
            jobs=work.jobs, batches=work.batches, message_batches=work.message_batches,
            shedding=open_shedding(settings, metrics, stack), claim=claim,
            heavy=heavy, first_key=first_key,
        )  # fmt: skip
        yield runtime


async def _open_database(
    settings: Settings, instance_id: str, stack: AsyncExitStack, *, is_worker: bool
) -> tuple[Database, Claim | None]:
    """Open it, keep it tidy, and say of what dead servers left open that it was interrupted."""
    await until_redis(settings)
    url = settings.database_url.get_secret_value()
    database = await until_there(
        "the database",
        lambda: stack.enter_async_context(open_database(url)),
        settings.startup_timeout,
    )
    claim = await claim_database(settings, database, stack, is_worker=is_worker)
    if database.path is not None:  # its file is locked, so nobody else is alive
        async with database.sessions.begin() as session:
            await interrupt_open(session, but=[instance_id])
    else:
        instances = Instances(database.sessions, instance_id)
        stack.push_async_callback(instances.aclose)
        await instances.look()
        _run(instances.keep(), stack)
        months = Months(database.sessions)
        await months.look()
        _run(months.keep(), stack)
    _run(_retention(settings, database.sessions).keep(), stack)
    return database, claim


def _open_meter(
    settings: Settings, database: Database, limiter: Limiter, pricing: Pricing, metrics: Metrics,
    instance_id: str, stack: AsyncExitStack,
) -> Meter:  # fmt: skip
    tracer = open_tracer(settings, stack)  # closed after the ledger: it may take seconds
    ledger, longest_s = Ledger(database, metrics.committed), settings.request_timeout
    stack.push_async_callback(ledger.aclose)
    metrics.watch(
        "galley_ledger_waiting_rows", "Rows that are to be written to disk, or being written.", (),
        lambda: {(): ledger.waiting},
    )  # fmt: skip
    return Meter(
        ledger, limiter, pricing, metrics,
        instance_id=instance_id, longest_s=longest_s, tracer=tracer,
    )  # fmt: skip


async def _open_pricing(settings: Settings, sessions: Sessions, stack: AsyncExitStack) -> Pricing:
    pricing = Pricing(sessions)
    # Models that run here are free until an admin says otherwise.
    own = [name for name, model in settings.catalogue.items() if not model.remote]
    await pricing.seed_free([*own, MODERATION])
    _run(pricing.keep_fresh(), stack)
    return pricing


def _retention(settings: Settings, sessions: Sessions) -> RetentionService:
    return RetentionService(
        sessions,
        settings.retention_days,
        response_days=settings.response_retention_days,
        receipt_days=settings.receipt_retention_days,
        job_days=settings.job_retention_days,
    )


async def _open_models(
    settings: Settings, sessions: Sessions, stack: AsyncExitStack
) -> tuple[Models, Definitions]:
    models = Models(settings.catalogue, settings.routes)
    stack.push_async_callback(models.aclose)
    open_engine = engine_opener(settings)
    _run(models.load(open_engine), stack)  # those of the settings; the others load as they come
    definitions = Definitions(sessions, models, open_engine, routes=settings.routes)
    await definitions.load()
    _run(definitions.keep_fresh(), stack)
    return models, definitions


def _open_caches(
    settings: Settings, models: Models, stack: AsyncExitStack
) -> tuple[VectorCache, AnswerCache]:
    cache, ttl_s = open_cache(settings, stack), settings.cache_ttl
    return VectorCache(cache, ttl_s=ttl_s), AnswerCache(cache, models.comparer, ttl_s=ttl_s)


def _open_pictures(models: Models, stack: AsyncExitStack) -> PictureService:
    return PictureService(models, stack.enter_context(ThreadPoolExecutor(2, "galley-pictures")))


def _join_accounts(
    settings: Settings, sessions: Sessions, stack: AsyncExitStack
) -> tuple[Accounts, Logins, People]:
    """Join what knows tokens with what gives them: they share the secret that signs them."""
    tokens = Tokens(
        signing_secret(settings.jwt_secret, settings.data_dir),
        timedelta(minutes=settings.access_token_minutes),
    )
    guests = Guests(sessions, Issuers(settings.issuers))
    accounts = Accounts(sessions, tokens=tokens, guests=guests)
    lifetime = timedelta(days=settings.refresh_token_days)
    passwords = stack.enter_context(Passwords())
    logins = Logins(sessions, accounts, tokens, passwords, lifetime=lifetime)
    return accounts, logins, People(sessions, accounts, passwords)
