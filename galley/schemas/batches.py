"""Batches: many requests in one file.

Source: OpenAI API specification, `CreateBatch`, `Batch`, `BatchRequestInput`.
"""

from typing import Any, Literal

from pydantic import Field

from galley.schemas.base import Reply, Request
from galley.schemas.files import ExpiresAfter
from galley.schemas.responses import Metadata

BatchEndpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
]
BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired",
    "cancelling", "cancelled",
]  # fmt: skip


class BatchFile(Request):
    """A batch but for what its lines ask."""

    input_file_id: str = Field(
        min_length=1, max_length=64, description="Uploaded with the purpose `batch`."
    )
    completion_window: Literal["24h"] = "24h"
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="When its output and errors are deleted; unset: in 30 days."
    )


class BatchCreate(BatchFile):
    endpoint: BatchEndpoint = Field(description="What every line of the file asks.")


class BatchParams(BatchFile):
    """What a job is told of a batch, OpenAI's or Anthropic's."""

    endpoint: BatchEndpoint | Literal["/v1/messages"]


class BatchLine(Request):
    """One line of the file."""

    custom_id: str = Field(min_length=1, max_length=512)
    method: Literal["POST"]
    url: str = Field(max_length=64)
    body: dict[str, Any]


class BatchFault(Reply):
    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchFaults(Reply):
    object: Literal["list"] = "list"
    data: list[BatchFault]


class BatchCounts(Reply):
    total: int
    completed: int
    failed: int


class InputTokensDetails(Reply):
    cached_tokens: int


class OutputTokensDetails(Reply):
    reasoning_tokens: int = Field(description="Not told apart here: 0.")


class BatchUsage(Reply):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchReply(Reply):
    """Moments are Unix time, in seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = Field(default=None, description="Where all lines ask for the same.")
    errors: BatchFaults | None = Field(default=None, description="Why it did not begin.")
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None = None


class BatchList(Reply):
    object: Literal["list"] = "list"
    data: list[BatchReply]
    first_id: str | None
    last_id: str | None
    has_more: bool
