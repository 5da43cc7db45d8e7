"""The tables. Ids are UUIDs, to us as text of 36 characters; times are aware UTC."""

from datetime import UTC, date, datetime
from typing import Any, Literal

import uuid_utils
from sqlalchemy import (
    JSON,
    UUID,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from galley.db.ids import new_id

State = Literal["open", "completed", "refused", "failed", "cancelled", "interrupted"]
"""How far a request got. `interrupted`: its server died before it could say more."""

UserStatus = Literal["active", "disabled"]

OPEN = text("state = 'open'")
"""Written out, not bound: that is how both databases know the partial index for it."""

DRAWN = text("arm IS NOT NULL")
"""The same for requests whose user was drawn one of several targets."""


def id_bytes(value: str) -> bytes:
    """Return an id as SQLite keeps it."""
    return bytes.fromhex(value.replace("-", ""))


class Id(TypeDecorator[str]):
    """A UUID. SQLite knows none, so there it is 16 bytes: as text it would double the ledger."""

    impl = LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        own = UUID(as_uuid=False) if dialect.name == "postgresql" else LargeBinary(16)
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        return value if value is None or dialect.name == "postgresql" else id_bytes(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        if not isinstance(value, bytes):
            return value
        text = value.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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


class Tier(Base):
    """What its users may do and how much of it.

    `limits` is a `core.limits.Limits`, `model_limits` one per model's name; `models` the names
    of those that may be used, null is all; `weight` their share of a busy model, compared with
    others; `filters` a list of `core.filters.FilterRule`.
    """

    __tablename__ = "tiers"

    name: Mapped[str] = mapped_column(primary_key=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    limits: Mapped[dict[str, Any]] = mapped_column(JSON)
    model_limits: Mapped[dict[str, dict[str, Any]]] = mapped_column(JSON)
    weight: Mapped[int] = mapped_column(default=1, server_default="1")
    filters: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list, server_default="[]")


class User(Base):
    """Who owns keys and requests. `limits` holds what differs from the tier's.

    Tokens issued before `tokens_from` open nothing any more. `credit` is what they may spend in
    all, ever, in micro-dollars; who has none is billed afterwards, and so is what they had spent
    before they first had some (`spent_before_credit`).
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    is_admin: Mapped[bool] = mapped_column(default=False)
    tier: Mapped[str] = mapped_column(ForeignKey(Tier.name), default="free")
    status: Mapped[UserStatus] = mapped_column(String, default="active")
    password_hash: Mapped[str | None]
    limits: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    credit: Mapped[int | None] = mapped_column(BigInteger)
    spent_before_credit: Mapped[int] = mapped_column(BigInteger, default=0)
    tokens_from: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ApiKey(Base):
    """A key, of which only the hash is kept, and enough characters to recognise it by.

    `scopes` null is all that its owner has; `limits` are its own, beside its owner's.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id), index=True)
    name: Mapped[str]
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    prefix: Mapped[str] = mapped_column(String(7))
    last_four: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    limits: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RefreshToken(Base):
    """A token that is good for one new pair of tokens; a family comes from one login.

    One that is used a second time was stolen from somebody, so its whole family ends.
    """

    __tablename__ = "refresh_tokens"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    family: Mapped[str] = mapped_column(Id, index=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id), index=True)
    key_id: Mapped[str | None] = mapped_column(Id, ForeignKey(ApiKey.id))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Price(Base):
    """What a model costs from a moment on, in micro-dollars; a new price is a new row.

    Tokens are priced by the million, pictures and texts one by one, time by the second.
    """

    __tablename__ = "prices"
    __table_args__ = (Index(None, "model", "valid_from"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    model: Mapped[str]
    valid_from: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    prompt: Mapped[int] = mapped_column(BigInteger, default=0)
    cached: Mapped[int] = mapped_column(BigInteger, default=0)
    completion: Mapped[int] = mapped_column(BigInteger, default=0)
    unit: Mapped[int] = mapped_column(BigInteger, default=0)
    second: Mapped[int] = mapped_column(BigInteger, default=0)


class AuditEvent(Base):
    """What an admin did: to what, and how it was before and after. No foreign keys: it outlives."""

    __tablename__ = "audit_events"

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    user_id: Mapped[str] = mapped_column(Id)
    key_id: Mapped[str] = mapped_column(Id)
    action: Mapped[str]
    object: Mapped[str]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


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
        Index(
            "ix_api_requests_drawn",
            "route",
            "request_id",
            sqlite_where=DRAWN,
            postgresql_where=DRAWN,
        ),
        {"sqlite_with_rowid": False},
    )

    request_id: Mapped[str] = mapped_column(Id, primary_key=True)
    client_request_id: Mapped[str | None]
    instance_id: Mapped[str] = mapped_column(Id)
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
    cost: Mapped[int] = mapped_column(BigInteger)
    price_id: Mapped[str | None] = mapped_column(Id)
    first_token_ms: Mapped[float | None]
    response_time_ms: Mapped[float | None]
    ignored_fields: Mapped[str | None]
    route: Mapped[str | None]
    arm: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    cache: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Definition(Base):
    """A model or a route that an admin named at run time: of each, the latest row counts.

    A `spec` of null says that it is gone; where the settings have it too, theirs counts again.
    """

    __tablename__ = "definitions"
    __table_args__ = (Index(None, "kind", "name", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    kind: Mapped[str]
    name: Mapped[str]
    spec: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class UsageHourly(Base):
    """Sums of settled requests per hour; `served_model` is empty where none was reached.

    `cost` is in micro-dollars, as it is everywhere.
    """

    __tablename__ = "usage_hourly"
    __table_args__ = ({"sqlite_with_rowid": False},)

    user_id: Mapped[str] = mapped_column(Id, primary_key=True)
    hour: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    key_id: Mapped[str] = mapped_column(Id, primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    served_model: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    successes: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)
    response_time_ms: Mapped[float]


class UsageDaily(Base):
    """The same per day and without keys, which is what usage and invoices are read from.

    Of users who are busy around the clock, the hours are too many to be added up within
    milliseconds.
    """

    __tablename__ = "usage_daily"
    __table_args__ = ({"sqlite_with_rowid": False},)

    user_id: Mapped[str] = mapped_column(Id, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    served_model: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    successes: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)
    response_time_ms: Mapped[float]


class Instance(Base):
    """A server that runs, and when it last said so. SQLite serves one alone, so there are none."""

    __tablename__ = "instances"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Retention(Base):
    """From which hour on every request is still there. One row, once the first were deleted."""

    __tablename__ = "retention"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    whole_from: Mapped[datetime] = mapped_column(UtcDateTime)


class StoredResponse(Base):
    """One of OpenAI's Responses: the object, and all that the model was told, as JSON.

    Its id is that of its request. Bytes, as nobody asks for what is in them.
    """

    __tablename__ = "responses"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey(User.id), index=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    items: Mapped[bytes] = mapped_column(LargeBinary)


class Receipt(Base):
    """How a request came to what its row says, as JSON; `services/receipts.py` knows its words.

    Written by the ledger, with the row. Bytes, as nobody asks for what is in them.
    """

    __tablename__ = "receipts"
    __table_args__ = ({"sqlite_with_rowid": False},)

    request_id: Mapped[str] = mapped_column(Id, primary_key=True)
    detail: Mapped[bytes] = mapped_column(LargeBinary)


class Feedback(Base):
    """What its user said of an answer, from -1 to 1; the latest word counts."""

    __tablename__ = "feedback"
    __table_args__ = ({"sqlite_with_rowid": False},)

    request_id: Mapped[str] = mapped_column(Id, primary_key=True)
    score: Mapped[float]
    comment: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
