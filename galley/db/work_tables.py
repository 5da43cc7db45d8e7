"""The tables of what goes on in the background, and of the files that it reads and writes."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from galley.db.tables import Base, Id, User, UtcDateTime, new_id

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Job(Base):
    """Work that goes on after its request was answered.

    `due_at` is when it may begin. While it runs, `lease` names the run that holds it, until
    `leased_until`; whoever finds that past takes it for dead. `attempts` counts runs that began.
    `log` holds the last lines, each with its number.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "user_id", "id"),
        Index(None, "user_id", "started_at"),
        Index(None, "user_id", "idempotency_key", unique=True),
        Index(None, "status", "user_id", "due_at"),
        Index("ix_jobs_lease", "lease", unique=True),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id))
    key_id: Mapped[str] = mapped_column(Id)
    request_id: Mapped[str | None] = mapped_column(Id)
    kind: Mapped[str]
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    status: Mapped[JobStatus] = mapped_column(String, default="queued")
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    lease: Mapped[str | None] = mapped_column(Id)
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int | None] = mapped_column(BigInteger)
    message: Mapped[str | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    log: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Webhook(Base):
    """Where a job's end is told, and how far that got: `due_at` null is before it, or after all."""

    __tablename__ = "webhooks"

    job_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True
    )
    url: Mapped[str]
    secret: Mapped[str]
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None]


class File(Base):
    """A file of a user; its bytes are in the data directory, under its id."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "user_id", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id))
    name: Mapped[str]
    purpose: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired",
    "cancelling", "cancelled",
]  # fmt: skip


class Batch(Base):
    """Requests from a file, which a job answers; it has the job's id.

    Files are named without foreign keys: their owner may delete them. `completed` and `failed`
    count lines; the tokens are what these took.
    """

    __tablename__ = "batches"
    __table_args__ = (Index(None, "user_id", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id))
    endpoint: Mapped[str]
    input_file_id: Mapped[str] = mapped_column(Id)
    labels: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    output_lifetime_s: Mapped[int | None]
    status: Mapped[BatchStatus] = mapped_column(String, default="validating")
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    model: Mapped[str | None]
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cached_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    output_file_id: Mapped[str | None] = mapped_column(Id)
    error_file_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    in_progress_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finalizing_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancelling_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
