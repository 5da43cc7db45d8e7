"""What a refusal looks like, in the words of each dialect."""

from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply


class ErrorDetail(Reply):
    message: str
    type: str
    param: str | None = Field(description="The request field at fault.")
    code: str | None = Field(description="Stable and machine-readable.")


class ErrorReply(Reply):
    """Source: OpenAI API specification, ErrorResponse."""

    error: ErrorDetail


class AnthropicErrorDetails(Reply):
    error_code: str | None = Field(description="Stable and machine-readable.")


class AnthropicErrorDetail(Reply):
    type: str
    message: str
    details: AnthropicErrorDetails


class AnthropicErrorReply(Reply):
    """Source: Anthropic API reference, Errors."""

    type: Literal["error"] = "error"
    error: AnthropicErrorDetail
    request_id: str


class Fault(Reply):
    """One of FastAPI's validation errors, without the input."""

    type: str
    loc: list[str | int]
    msg: str


class DetailReply(Reply):
    """A sentence, or the list of what does not fit the schema."""

    detail: str | list[Fault]
