"""OpenAI's embeddings.

Source: OpenAI API specification, `CreateEmbeddingRequest` and `CreateEmbeddingResponse`.
"""

from typing import Annotated, Literal

from pydantic import Field

from galley.schemas.base import Inert, Reply, Request
from galley.schemas.chat import ModelName
from galley.schemas.completions import Text, Tokens

MAX_INPUTS = 2048


class EmbeddingRequest(Request):
    """Source: OpenAI API specification, CreateEmbeddingRequest."""

    model: ModelName
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    ) = Field(description="One text or up to 2048, or the same as token ids.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        default=None, ge=1, le=65_536, description="Keep the first so many, at unit length again."
    )
    truncate: bool = Field(
        default=False, description="Cut what is longer than the model reads instead of refusing it."
    )
    user: Inert = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """Every input, as texts or as token ids."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]  # pyright: ignore[reportReturnType]
        return self.input  # pyright: ignore[reportReturnType]


class Embedding(Reply):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(Reply):
    """Source: OpenAI API specification, CreateEmbeddingResponse."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
