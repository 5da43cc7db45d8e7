"""Jobs: the one table of their kinds, and who does them: this process, or workers."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from galley.core.metrics import Metrics
from galley.core.settings import Settings
from galley.db.session import Database, Sessions
from galley.runtime.background import run
from galley.schemas.jobs import AnalyseUsageParams, EmbedParams, ExportParams
from galley.services.accounts import Accounts
from galley.services.analyses import UsageAnalyses
from galley.services.embed_files import EmbedFiles
from galley.services.embeddings import EmbeddingService
from galley.services.exports import Exports
from galley.services.files import FileService
from galley.services.job_attempt import Desk
from galley.services.job_bell import JobBell
from galley.services.job_feed import JobFeed
from galley.services.job_keeper import JobKeeper
from galley.services.job_kinds import Kind
from galley.services.job_runner import JobRunner
from galley.services.jobs import JobService
from galley.services.metering import Meter
from galley.services.webhook_sender import WebhookSender
from galley.services.webhooks import WebhookGuard


@dataclass(frozen=True, slots=True)
class Jobs:
    """All that has to do with jobs; `runner` is what a worker has."""

    service: JobService
    feed: JobFeed
    runner: JobRunner


def job_kinds(
    sessions: Sessions, files: FileService, embeddings: EmbeddingService, meter: Meter
) -> dict[str, Kind]:
    """Make the one table of what jobs there are."""
    embed = EmbedFiles(files, embeddings, meter)
    return {
        "analyse_usage": Kind(UsageAnalyses(sessions).run, AnalyseUsageParams, ("usage",)),
        "export": Kind(Exports(sessions, files).run, ExportParams, ("usage", "files")),
        "embed": Kind(embed.run, EmbedParams, ("embeddings", "files"), embed.check),
    }


async def open_jobs(
    settings: Settings,
    database: Database,
    accounts: Accounts,
    metrics: Metrics,
    kinds: Mapping[str, Kind],
    stack: AsyncExitStack,
) -> Jobs:
    """Open the jobs' office; what dead servers left is given back."""
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
    stack.push_async_callback(runner.aclose)
    run(runner.beat(), stack)
    run(runner.keep(), stack)
    run(sender.keep(), stack)
    metrics.watch("galley_jobs", "Jobs there are.", "status", lambda: dict(keeper.counts))
    service = JobService(sessions, kinds, runner, guard, most_queued=settings.job_queue)
    return Jobs(service, JobFeed(service, bell), runner)
