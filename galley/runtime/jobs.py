"""Jobs: the one table of their kinds, and who does them: this process, or workers."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NamedTuple

from galley.core.caller import Caller
from galley.core.metrics import Metrics
from galley.core.settings import Settings, SettingsError
from galley.db.session import Database, Sessions
from galley.runtime.background import run
from galley.runtime.celery import CelerySender, make_celery
from galley.schemas.batches import BatchParams
from galley.schemas.documents import IndexParams
from galley.schemas.jobs import AnalyseUsageParams, EmbedParams, ExportParams
from galley.services.accounts import Accounts
from galley.services.analyses import UsageAnalyses
from galley.services.batch_jobs import BatchJobs
from galley.services.batches import Batches
from galley.services.embed_files import EmbedFiles
from galley.services.embeddings import EmbeddingService
from galley.services.exports import Exports
from galley.services.files import FileService
from galley.services.index_job import IndexJob
from galley.services.job_attempt import Desk
from galley.services.job_bell import JobBell
from galley.services.job_feed import JobFeed
from galley.services.job_keeper import JobKeeper
from galley.services.job_kinds import Kind
from galley.services.job_runner import JobRunner
from galley.services.jobs import JobService, Starter
from galley.services.message_batches import MessageBatches
from galley.services.metering import Meter
from galley.services.side_door import SideDoor
from galley.services.sweeping import FileSweeper
from galley.services.webhook_sender import WebhookSender
from galley.services.webhooks import WebhookGuard


@dataclass(frozen=True, slots=True)
class Jobs:
    """All that has to do with jobs; `runner` is what a worker has."""

    service: JobService
    feed: JobFeed
    runner: JobRunner


class Work(NamedTuple):
    """What users have done in the background, and the files that it reads and writes."""

    files: FileService
    jobs: Jobs
    batches: Batches
    message_batches: MessageBatches


async def open_work(
    settings: Settings, database: Database, accounts: Accounts, metrics: Metrics, meter: Meter,
    embeddings: EmbeddingService, index: IndexJob, stack: AsyncExitStack, door: SideDoor,
    *, is_worker: bool,
) -> Work:  # fmt: skip
    """Open all of it.

    Args:
        door: answers the lines of batches.
    Raises:
        SettingsError: a broker is set, and Celery is not installed.
    """
    sessions = database.sessions
    files = _open_files(settings, sessions, stack)
    batches = _open_batches(settings, sessions, files, door, stack)
    kinds = job_kinds(sessions, files, embeddings, meter, batches, index)
    jobs = await open_jobs(settings, database, accounts, metrics, kinds, stack, is_worker)
    message_batches = MessageBatches(
        sessions, jobs.service, batches, files, longest_line=settings.image_body_limit
    )
    return Work(files, jobs, Batches(sessions, jobs.service, batches), message_batches)


def _open_files(settings: Settings, sessions: Sessions, stack: AsyncExitStack) -> FileService:
    """Open the folder of files, and keep it tidy."""
    folder = settings.data_dir / "files"
    run(FileSweeper(sessions, folder).keep(), stack)
    return FileService(sessions, folder, most_bytes=settings.file_limit, quota=settings.file_quota)


def _open_batches(
    settings: Settings, sessions: Sessions, files: FileService, door: SideDoor,
    stack: AsyncExitStack,
) -> BatchJobs:  # fmt: skip
    """Return who does batches, and delete what is left of those that have ended."""
    folder = settings.data_dir / "batches"
    work = BatchJobs(sessions, files, door, folder, longest_line=settings.image_body_limit)
    run(work.sweep(), stack)
    return work


def job_kinds(
    sessions: Sessions,
    files: FileService,
    embeddings: EmbeddingService,
    meter: Meter,
    batches: BatchJobs,
    index: IndexJob,
) -> dict[str, Kind]:
    """Make the one table of what jobs there are."""
    embed = EmbedFiles(files, embeddings, meter)
    return {
        "analyse_usage": Kind(UsageAnalyses(sessions).run, AnalyseUsageParams, ("usage",)),
        "export": Kind(Exports(sessions, files).run, ExportParams, ("usage", "files")),
        "embed": Kind(embed.run, EmbedParams, ("embeddings", "files"), embed.check),
        "index_documents": Kind(index.index_documents, IndexParams, ("documents",)),
        "run_batch": Kind(batches.run, BatchParams, ("files",), batches.check),
    }


async def index_later(jobs: Jobs, caller: Caller, document_ids: Sequence[str]) -> str:
    """Make a job for documents that are queued; returns its id."""
    asked = {"documents": list(document_ids)}
    return (await jobs.service.submit(caller, "index_documents", asked)).id


async def open_jobs(
    settings: Settings,
    database: Database,
    accounts: Accounts,
    metrics: Metrics,
    kinds: Mapping[str, Kind],
    stack: AsyncExitStack,
    is_worker: bool = False,
) -> Jobs:
    """Open the jobs' office: done in this process, by workers, or by this one, which is a worker.

    Raises:
        SettingsError: a broker is set, and Celery is not installed, or the database is SQLite.
    """
    if settings.broker_url is not None and database.path is not None:
        raise SettingsError(
            "GALLEY_BROKER_URL leaves jobs to workers, who share the database, and SQLite has one"
            " user. Unset it, or set GALLEY_DATABASE_URL=postgresql://user@host/galley"
        )
    sessions, bell = database.sessions, JobBell()
    keeper = JobKeeper(sessions)
    if database.path is not None:  # its file is locked, so nobody else is alive
        await keeper.recover(alone=True)
    guard = WebhookGuard(settings.webhook_networks)
    sender = WebhookSender(sessions, guard)

    def finished(kind: str, status: str) -> None:
        metrics.jobs(kind, status).inc()
        sender.wake()

    runner = JobRunner(
        sessions, kinds, Desk(sessions, accounts, bell, finished), keeper,
        concurrency=settings.job_concurrency, most_running=settings.job_user_concurrency,
    )  # fmt: skip
    starter: Starter = runner
    stack.push_async_callback(runner.aclose)
    if is_worker or settings.broker_url is None:
        run(runner.beat(), stack)
    if settings.broker_url is None:
        run(runner.keep(), stack)
    elif not is_worker:
        starter = celery = CelerySender(make_celery(settings), sessions, keeper)
        run(celery.send(), stack)
        run(celery.keep(), stack)
    run(sender.keep(), stack)
    metrics.watch("galley_jobs", "Jobs there are.", "status", lambda: dict(keeper.counts))
    service = JobService(sessions, kinds, starter, guard, bell, most_queued=settings.job_queue)
    return Jobs(service, JobFeed(service, bell), runner)
