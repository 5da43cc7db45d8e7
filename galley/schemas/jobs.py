"""Jobs: work that goes on after its request was answered."""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from galley.schemas.base import Reply, Request
from galley.schemas.chat import ModelName
from galley.schemas.keys import PLAIN

JobKind = Literal["analyse_usage", "index_documents", "embed", "run_batch", "export"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINISHED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})
KINDS: tuple[JobKind, ...] = get_args(JobKind)

Secret = Annotated[
    str, Field(min_length=32, max_length=100, pattern=r"^(whsec_)?[A-Za-z0-9+/]+=*$")
]


class WebhookTarget(Request):
    """Where the end of a job is told. Source: Standard Webhooks, standardwebhooks.com."""

    url: str = Field(
        min_length=1, max_length=2048, pattern=PLAIN,
        description="https, and on no private network.",
    )  # fmt: skip
    secret: Secret | None = Field(
        default=None,
        description="24 to 64 bytes as base64, `whsec_` before them or not; null makes one.",
    )


class ProcessRequest(Request):
    task: JobKind = Field(default="analyse_usage", description="What is to be done.")
    params: dict[str, Any] = Field(
        default_factory=dict[str, Any], max_length=64, description="As the task wants them."
    )
    webhook: WebhookTarget | None = Field(default=None, description="Told when the job has ended.")


class ProcessReply(Reply):
    job_id: str
    status: JobStatus
    webhook_secret: str | None = Field(
        default=None, description="Where one was made: shown once, to check signatures with."
    )


class JobProgress(Reply):
    done: int
    total: int | None = Field(description="Null as long as nobody knows.")
    message: str | None


class JobError(Reply):
    code: str
    message: str


class JobLine(Reply):
    """A line of a job's log."""

    number: int
    at: datetime
    event: Literal["queued", "started", "progress", "retried", "interrupted", "ended"]
    message: str


class WebhookState(Reply):
    url: str
    attempts: int
    delivered_at: datetime | None
    error: str | None = Field(description="Why the last attempt failed.")


class JobSummary(Reply):
    """A job in a list: without its result and its log, which may be long."""

    id: str
    object: Literal["job"] = "job"
    task: JobKind
    params: dict[str, Any]
    status: JobStatus
    attempts: int = Field(description="How often it was begun.")
    progress: JobProgress
    error: JobError | None = Field(description="Why it failed, or why it has to be tried again.")
    request_id: str | None = Field(description="Of the request that made it.")
    created_at: datetime
    due_at: datetime | None = Field(description="When it may begin, while it is queued.")
    started_at: datetime | None = Field(description="Its last attempt.")
    finished_at: datetime | None
    webhook: WebhookState | None


class JobReply(JobSummary):
    """A job with what came of it."""

    result: dict[str, Any] | None
    log: list[JobLine] = Field(description="The last lines, the oldest first.")


class JobGone(JobReply):
    deleted: bool = Field(description="True of a job that had ended; others are cancelled.")


class JobList(Reply):
    object: Literal["list"] = "list"
    data: list[JobSummary]
    has_more: bool
    next_after: str | None = Field(description="`after` of the next page; null after the last.")


class AnalyseUsageParams(Request):
    days: int = Field(default=30, ge=1, le=366, description="Today and the days before it, of UTC.")


class ExportParams(Request):
    format: Literal["csv", "jsonl"] = "csv"
    days: int = Field(default=30, ge=1, le=366, description="Today and the days before it, of UTC.")


class EmbedParams(Request):
    file_id: str = Field(
        min_length=1, max_length=64,
        description="Of a file whose lines are texts: as they stand, JSON strings, or objects"
        ' such as {"id": 7, "text": "..."}.',
    )  # fmt: skip
    model: ModelName = "galley/embeddings"
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    truncate: bool = Field(default=False, description="Cut what is longer than the model reads.")
