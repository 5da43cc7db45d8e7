"""API keys, one's own and those of others."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, model_validator

from galley.core.limits import Limits
from galley.schemas.base import PLAIN, Reply, Request

Scope = Literal[
    "chat", "embeddings", "classify", "documents", "files", "jobs", "usage", "keys",
    "admin:users", "admin:tiers", "admin:prices", "admin:models", "admin:usage", "admin:audit",
    "admin:*",
]  # fmt: skip

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=PLAIN)]


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a time is a text such as 2026-12-31T00:00:00Z")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("that is not within the years 1 to 9999 of UTC") from None


Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_text), AfterValidator(_utc)]
"""A time with its zone, as RFC 3339 writes it."""


class KeyCreate(Request):
    name: Name = Field(description="What the key is for.")
    scopes: list[Scope] | None = Field(
        default=None, min_length=1, max_length=20,
        description="What it may do; null is all that you may.",
    )  # fmt: skip
    limits: Limits = Field(default=Limits(), description="Its own ceilings, beside its owner's.")
    expires_at: Moment | None = Field(default=None, description="Null is never.")
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("give expires_at or expires_in_days, not both")
        return self


class Change(Request):
    """What is left out stays, and nothing can be taken away with null."""

    @model_validator(mode="after")
    def _nothing_is_null(self) -> Self:
        if null := [name for name in self.model_fields_set if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(sorted(null))} cannot be null")
        return self


class KeyUpdate(Change):
    """What is left out stays; `limits` are replaced as a whole."""

    name: Name | None = None
    limits: Limits | None = None


class KeyRotate(Request):
    overlap_seconds: int = Field(
        default=0, ge=0, le=604_800, description="How long the old key still opens."
    )


class KeyReply(Reply):
    """A key, of which only the ends are known."""

    id: str
    object: Literal["key"] = "key"
    user_id: str
    name: str
    prefix: str
    last_four: str
    scopes: list[str] | None = Field(description="Null is all that its owner has.")
    limits: dict[str, int | None]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="The hour of its last request.")


class NewKeyReply(KeyReply):
    """The same, this once with the key itself."""

    key: str = Field(description="Shown once and kept nowhere.")


class KeyList(Reply):
    object: Literal["list"] = "list"
    data: list[KeyReply]
    has_more: bool
