"""A piece of an answer, on its way from an engine to a dialect."""

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(slots=True)
class Usage:
    """Tokens, as the engine counted them. `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(slots=True)
class ToolCall:
    """A tool call, or the next piece of one: `arguments` pieces of one `index` are joined."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """What one choice gained. The last piece of a choice has its `finish_reason`.

    Args:
        index: which of the `n` choices.
        reasoning: what a thinking model says to itself first.
        tokens: how many tokens this piece stands for; a hang-up is billed by their sum.
        logprobs: OpenAI's `logprobs.content` entries (chat) or the same for a completion.
        stop_sequence: which of the stop sequences ended it, from engines that tell.
        usage: the whole choice's count; comes with or after `finish_reason`.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    logprobs: list[dict[str, Any]] | None = None
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class Answer:
    """One whole answer, gathered from its pieces."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    logprobs: list[dict[str, Any]] | None = None
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
