"""Who asks."""

from pydantic import Field

from galley.schemas.base import Reply
from galley.schemas.keys import KeyReply
from galley.schemas.usage import LimitLeft


class MeReply(Reply):
    """Who asks, and what they may do."""

    user_id: str
    email: str
    name: str
    tier: str
    scopes: list[str] = Field(description="With this key: what it leaves out is not here.")
    models: list[str] | None = Field(description="Null is all.")
    limits: list[LimitLeft]
    credit_left: int | None = Field(
        description="Prepaid and not spent, in micro-dollars; null for who is billed afterwards."
    )
    key: KeyReply | None = Field(description="Null for who came with a password.")
