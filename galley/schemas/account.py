"""What a caller may know of the server."""

from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply


class ModelReply(Reply):
    """Source: OpenAI API specification, Model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this server started, in Unix seconds.")
    owned_by: str = "galley"
    kind: str = Field(description="chat, embeddings, rerank or classify.")
    status: str = Field(description="loading, loaded, not answering or failed.")
    license: str
    source: str = Field(description="Where its weights come from.")
    hardware: str | None = Field(description="What it runs on, once it is loaded.")


class ModelList(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class AnthropicModel(Reply):
    """Source: Anthropic API reference, ModelInfo."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str = Field(
        default="1970-01-01T00:00:00Z", description="The epoch: nobody says when it was made."
    )
    lifecycle: Literal["active"] = "active"


class AnthropicModelList(Reply):
    """Source: Anthropic API reference, List Models."""

    data: list[AnthropicModel]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Health(Reply):
    """`ok` when every part is; `parts` says which one is not."""

    status: str
    version: str
    parts: dict[str, str]
