"""What admins set and see: users, tiers, and the log of what was done."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from galley.core.filters import MAX_RULES, FilterRule, unique
from galley.core.limits import MOST, Limits
from galley.schemas.auth import PASSWORD_WORDS
from galley.schemas.base import Reply, Request, said_as
from galley.schemas.keys import PLAIN, Change, Name

TIER_NAME = r"^[a-z0-9][a-z0-9_-]*$"

MOST_WEIGHT = 1000

TIER_WORDS = said_as("a tier's name is up to 64 of a-z, 0-9, - and _, a letter or digit first")

TierName = Annotated[str, Field(max_length=64, pattern=TIER_NAME), TIER_WORDS]
Email = Annotated[
    str,
    Field(max_length=254, pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"),
    said_as("this is no address such as ada@example.org"),
]


def _own_name(model: str) -> str:
    """Refuse what stands for another name: nothing is counted by it."""
    if model.startswith("galley/"):
        raise ValueError("galley/... stands for a default model; name it as GET /v1/models does")
    return model


ModelId = Annotated[
    str, Field(min_length=1, max_length=256, pattern=PLAIN), AfterValidator(_own_name)
]
Password = Annotated[str, Field(min_length=12, max_length=256), PASSWORD_WORDS]
UserScope = Literal[
    "chat", "embeddings", "classify", "documents", "files", "jobs", "usage", "keys",
]  # fmt: skip


class UserCreate(Request):
    email: Email
    name: Name
    tier: TierName = "free"
    password: Password | None = Field(
        default=None,
        description="For `POST /v1/auth/token`; null: the user comes with keys alone.",
    )
    limits: Limits = Field(default=Limits(), description="What differs from the tier's.")
    is_admin: bool = False


class UserUpdate(Change):
    """What is left out stays; `limits` are replaced as a whole."""

    name: Name | None = None
    tier: TierName | None = None
    status: Literal["active", "disabled"] | None = None
    password: Password | None = Field(
        default=None, description="A new one; it ends every login of theirs."
    )
    limits: Limits | None = None
    is_admin: bool | None = None


class CreditAdd(Request):
    """What a user has paid ahead."""

    amount: int = Field(ge=1, le=MOST, description="In micro-dollars.")


class UserReply(Reply):
    id: str
    object: Literal["user"] = "user"
    email: str
    name: str
    tier: str
    status: str
    is_admin: bool
    has_password: bool
    limits: dict[str, int | None] = Field(description="What differs from the tier's.")
    credit: int | None = Field(
        description="What they may spend in all, ever, in micro-dollars; null: they are billed"
        " afterwards."
    )
    credit_left: int | None = Field(
        description="The same, less what they have spent; requests that run are not in it."
    )
    created_at: datetime


class UserList(Reply):
    object: Literal["list"] = "list"
    data: list[UserReply]
    has_more: bool


class TierUpdate(Request):
    """All of a tier; what is left out is its default."""

    scopes: list[UserScope] = Field(
        default=["chat", "embeddings", "classify", "documents", "files", "jobs", "usage", "keys"],
        max_length=20,
        description="What its users may do.",
    )  # fmt: skip
    models: list[ModelId] | None = Field(
        default=None, max_length=1000, description="The models they may use; null is all."
    )
    limits: Limits = Limits()
    model_limits: dict[ModelId, Limits] = Field(
        default={}, max_length=1000, description="Ceilings on one model each, by its name."
    )
    weight: int | None = Field(
        default=None,
        ge=1,
        le=MOST_WEIGHT,
        description="The share of each user in a model that others wait for, compared with theirs;"
        " null is 16 for enterprise, 4 for premium and 1 for others.",
    )
    filters: Annotated[list[FilterRule], AfterValidator(unique)] = Field(
        default=[],
        max_length=MAX_RULES,
        description="What may not be said by its users, or to them; in this order.",
    )


class TierReply(Reply):
    name: str
    object: Literal["tier"] = "tier"
    scopes: list[str]
    models: list[str] | None
    limits: dict[str, int | None]
    model_limits: dict[str, dict[str, int | None]]
    weight: int
    filters: list[FilterRule]


class TierList(Reply):
    object: Literal["list"] = "list"
    data: list[TierReply]
    has_more: bool = False


class AuditEventReply(Reply):
    """What an admin did."""

    id: str
    created_at: datetime
    user_id: str = Field(description="Who did it, and with which key.")
    key_id: str
    action: str
    object: str = Field(description="What it was done to, such as `user:0192...`.")
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditList(Reply):
    object: Literal["list"] = "list"
    data: list[AuditEventReply]
    has_more: bool
