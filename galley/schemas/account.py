"""What a caller may know of the server and of their own use of it."""

from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply


class ModelReply(Reply):
    """Source: OpenAI API specification, Model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this server started, in Unix seconds.")
    owned_by: str = "galley"
    kind: str = Field(description="chat, embeddings or classify.")
    status: str = Field(description="loading, loaded or failed.")
    license: str
    source: str = Field(description="Where its weights come from.")
    hardware: str | None = Field(description="What it runs on, once it is loaded.")


class ModelList(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class UsageSummary(Reply):
    """What the caller's requests came to; times in milliseconds."""

    total_requests: int
    successful_requests: int
    success_rate: float = Field(description="Per cent.")
    avg_response_time_ms: float
    prompt_tokens: int
    completion_tokens: int
    by_endpoint: dict[str, int] = Field(description="Requests per endpoint.")


class Health(Reply):
    """`ok` when every part is; `parts` says which one is not."""

    status: str
    version: str
    parts: dict[str, str]
