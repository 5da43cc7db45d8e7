"""The tables. Ids are UUIDs as text of 36 characters; times are aware UTC."""

from datetime import UTC, datetime
from typing import Any, Literal

import uuid_utils
from sqlalchemy import (
    UUID,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

State = Literal["open", "completed", "refused", "failed", "cancelled", "interrupted"]
"""How far a request got. `interrupted`: its server died before it could say more."""

OPEN = text("state = 'open'")
"""Written out, not bound: that is how both databases know the partial index for it."""

Id = String(36).with_variant(UUID(as_uuid=False), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment. SQLite keeps no time zone, so there it is UTC by agreement."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone is no moment")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def new_id() -> str:
    """Make an id; later ones sort after earlier ones."""
    return str(uuid_utils.uuid7())


def parse_id(value: str) -> str | None:
    """Return `value` as ids are stored, None when it is none: PostgreSQL would refuse the query."""
    try:
        return str(uuid_utils.UUID(value))
    except ValueError:
        return None


def utc_now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """What every table shares: names for constraints, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Base):
    """Who owns keys and requests."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ApiKey(Base):
    """A key, of which only the hash is kept, and enough characters to recognise it by."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id), index=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    prefix: Mapped[str] = mapped_column(String(7))
    last_four: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiRequest(Base):
    """One request, whatever ended it. Written by the ledger alone.

    No foreign keys: the ledger outlives users and keys, and a user removed while a request runs
    must not spoil the commit of everyone else's. The primary key is in order of time, so that
    `(user_id, request_id)` is the index for a user's requests by time.
    """

    __tablename__ = "api_requests"
    __table_args__ = (
        Index(None, "user_id", "request_id"),
        Index("ix_api_requests_open", "instance_id", sqlite_where=OPEN, postgresql_where=OPEN),
        {"sqlite_with_rowid": False},
    )

    request_id: Mapped[str] = mapped_column(Id, primary_key=True)
    client_request_id: Mapped[str | None]
    instance_id: Mapped[str]
    state: Mapped[State] = mapped_column(String)
    user_id: Mapped[str] = mapped_column(Id)
    key_id: Mapped[str] = mapped_column(Id)
    endpoint: Mapped[str]
    model: Mapped[str | None]
    served_model: Mapped[str | None]
    stream: Mapped[bool]
    status: Mapped[int | None]
    error_code: Mapped[str | None]
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    first_token_ms: Mapped[float | None]
    response_time_ms: Mapped[float | None]
    ignored_fields: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class UsageHourly(Base):
    """Sums of settled requests per hour; `served_model` is empty where none was reached."""

    __tablename__ = "usage_hourly"
    __table_args__ = ({"sqlite_with_rowid": False},)

    user_id: Mapped[str] = mapped_column(Id, primary_key=True)
    hour: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    served_model: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    successes: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    response_time_ms: Mapped[float]
