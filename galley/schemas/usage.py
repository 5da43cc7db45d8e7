"""What requests came to, one by one and summed up."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply

GroupBy = Literal["day", "model", "key", "endpoint"]
AdminGroupBy = Literal["day", "model", "endpoint", "user", "tier"]
RequestState = Literal["open", "completed", "refused", "failed", "cancelled", "interrupted"]


class UsageRow(Reply):
    """One day, model, key, endpoint, user or tier."""

    group: str = Field(description="The day, the name, or the id of a key or a user.")
    name: str | None = Field(description="A key's name, a user's address; null for others.")
    requests: int
    successful_requests: int
    prompt_tokens: int
    completion_tokens: int
    units: int
    cost: int = Field(description="In micro-dollars.")


class UsageReport(Reply):
    """What requests came to; times in milliseconds, costs in micro-dollars."""

    total_requests: int
    successful_requests: int
    success_rate: float = Field(description="Per cent.")
    avg_response_time_ms: float
    prompt_tokens: int
    completion_tokens: int
    units: int = Field(
        description="Pictures classified or described, and texts embedded or ranked."
    )
    cost: int = Field(description="In micro-dollars.")
    by_endpoint: dict[str, int] = Field(description="Requests per endpoint.")
    rows: list[UsageRow] = Field(description="By what `group_by` names; else none.")
    has_more: bool = Field(description="There are more rows than are shown.")


class LimitLeft(Reply):
    """How one limit of the caller stands."""

    subject: Literal["user", "key", "model"] = Field(description="What it counts for.")
    model: str | None = Field(description="Which model, where it counts for one.")
    metric: str = Field(description="requests, tokens, images, texts, cost or concurrency.")
    period: str = Field(
        description="minute, day or month; now: at the same time; ever: prepaid credit."
    )
    limit: int
    remaining: int
    reset_s: float | None = Field(
        description="Seconds until all of it is free again; null where it never is."
    )


class UsageSummary(UsageReport):
    """The same of the caller's own requests, and what their limits leave them."""

    limits: list[LimitLeft]


class RequestReply(Reply):
    """One request as the ledger has it."""

    id: str
    object: Literal["request"] = "request"
    created_at: datetime
    state: RequestState
    status: int | None = Field(description="HTTP status; 499 for a caller that hung up.")
    error_code: str | None
    endpoint: str
    model: str | None = Field(description="As asked.")
    served_model: str | None = Field(description="The one that answered.")
    stream: bool
    key_id: str
    client_request_id: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    units: int
    cost: int = Field(description="In micro-dollars.")
    price_id: str | None
    first_token_ms: float | None
    response_time_ms: float | None
    ignored_fields: list[str]
    route: str | None = Field(description="Whose name, or wildcard, `model` was.")
    arm: str | None = Field(description="The target its user is drawn, of a route with several.")
    attempts: int = Field(description="How often a model was asked for it.")
    cache: str | None = Field(description="exact or semantic, where the answer came from there.")


class RequestList(Reply):
    object: Literal["list"] = "list"
    data: list[RequestReply]
    has_more: bool = Field(description="There may be more, also after a page that is empty.")
    next_after: str | None = Field(description="`after` of the next page; null after the last.")
