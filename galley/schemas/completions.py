"""OpenAI's legacy text completions.

Source: OpenAI API specification, `CreateCompletionRequest` and `CreateCompletionResponse`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from galley.schemas.base import Inert, Reply, Request
from galley.schemas.chat import MAX_TOKENS, LogitBias, ModelName, Stop, StreamOptions, UsageReply

DEFAULT_MAX_TOKENS = 16

Tokens = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1, max_length=MAX_TOKENS)
]
Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(Request):
    """Source: OpenAI API specification, CreateCompletionRequest."""

    model: ModelName
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=64)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=64)]
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="Longest answer, in tokens. Unset: 16."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[str, Field(min_length=1, max_length=256)] | Stop | None = None
    n: int | None = Field(default=None, ge=1, le=16)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = False
    best_of: Literal[1] | None = Field(default=None, exclude=True)
    suffix: None = Field(default=None, description="Not supported; null only.")
    user: Inert = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.echo and (self.logprobs is not None or not isinstance(self.prompts[0], str)):
            raise ValueError("echo is supported for text prompts without logprobs")
        if len(self.prompts) * (self.n or 1) > 64:
            raise ValueError("at most 64 answers (prompts times n) per request")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Every prompt, as texts or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]

    @property
    def choices(self) -> int:
        """How many answers were asked for, over all prompts."""
        return len(self.prompts) * (self.n or 1)

    @property
    def limit(self) -> int:
        """The longest answer asked for, in tokens."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The stop sequences as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionChoice(Reply):
    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class Completion(Reply):
    """Source: OpenAI API specification, CreateCompletionResponse."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReply | None = None
