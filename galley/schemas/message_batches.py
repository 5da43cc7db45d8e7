"""Batches of messages.

Source: Anthropic API reference, Message Batches (`/v1/messages/batches`).
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from galley.schemas.base import Reply, Request

CUSTOM_ID = r"^[a-zA-Z0-9_-]{1,64}$"


class MessageBatchRequest(Request):
    """One request of a batch."""

    custom_id: str = Field(pattern=CUSTOM_ID)
    params: dict[str, Any] = Field(description="As the body of `POST /v1/messages`.")


class MessageBatchCounts(Reply):
    """All are `processing` until the batch has ended."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class MessageBatch(Reply):
    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    cancel_initiated_at: datetime | None = None
    archived_at: datetime | None = Field(default=None, description="Not told here: null.")
    results_url: str | None = Field(default=None, description="Once it has ended.")


class MessageBatchList(Reply):
    data: list[MessageBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedMessageBatch(Reply):
    id: str
    type: Literal["message_batch_deleted"] = "message_batch_deleted"
