"""Reading a streamed answer of Anthropic's Messages API.

Source: Anthropic API reference, Streaming Messages.
"""

from typing import Any

from galley.engines.bounds import BYTES_PER_TOKEN
from galley.engines.http_json import a, count
from galley.schemas.delta import Delta, FinishReason, ToolCall, Usage

_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class MessageReader:
    """Reads the events of one answer.

    Args:
        choice: which of its request's answers it is.
        prompt_tokens: what the prompt is taken to have until it is counted.
    """

    __slots__ = ("_calls", "_choice", "_silent", "_usage")

    def __init__(self, choice: int, prompt_tokens: int) -> None:
        self._choice = choice
        self._usage = Usage(prompt_tokens)
        self._calls: dict[int, int] = {}  # the number of the call that a block is
        self._silent: set[int] = set()  # calls that have no arguments so far

    def read(self, event: dict[str, Any]) -> Delta | None:
        """Return what the answer gains by `event`, if anything.

        Raises:
            ValueError: it is not such an event.
        """
        match event.get("type"):
            case "content_block_delta":
                return self._piece(a(int, event.get("index")), a(dict, event.get("delta")))
            case "content_block_start":
                return self._begun(a(int, event.get("index")), a(dict, event.get("content_block")))
            case "content_block_stop":
                return self._closed(a(int, event.get("index")))
            case "message_start":
                self._count(a(dict, a(dict, event.get("message")).get("usage")))
                prompt = Usage(self._usage.prompt_tokens, 0, self._usage.cached_tokens)
                return Delta(index=self._choice, usage=prompt)
            case "message_delta":
                return self._ended(a(dict, event.get("delta")), a(dict, event.get("usage")))
            case _:  # ping, and what may be new: clients are told to leave it out
                return None

    def _begun(self, block: int, content: dict[str, Any]) -> Delta | None:
        if content.get("type") == "tool_use":
            number = self._calls[block] = len(self._calls)
            self._silent.add(block)
            return self._call(
                ToolCall(number, a(str, content.get("id")), a(str, content.get("name")))
            )
        return self._piece(block, content)  # text and thinking may begin with some

    def _piece(self, block: int, piece: dict[str, Any]) -> Delta | None:
        if given := a(str, piece.get("partial_json")):
            self._silent.discard(block)
            return self._call(ToolCall(self._number(block), arguments=given))
        text, thought = a(str, piece.get("text")), a(str, piece.get("thinking"))
        if not (text or thought):
            return None
        return Delta(
            index=self._choice, text=text, reasoning=thought, tokens=_likely_tokens(text or thought)
        )

    def _closed(self, block: int) -> Delta | None:
        """A call without arguments is one with no properties."""
        if block not in self._silent:
            return None
        self._silent.discard(block)
        return self._call(ToolCall(self._number(block), arguments="{}"))

    def _ended(self, delta: dict[str, Any], usage: dict[str, Any]) -> Delta:
        self._count(usage)
        reason = a(str, delta.get("stop_reason"))
        return Delta(
            index=self._choice,
            finish_reason=_REASONS.get(reason, "stop") if reason else None,
            stop_sequence=a(str, delta.get("stop_sequence")) or None,
            usage=self._usage,
        )

    def _number(self, block: int) -> int:
        if block not in self._calls:
            raise ValueError("a piece of a tool call that never began")
        return self._calls[block]

    def _call(self, call: ToolCall) -> Delta:
        tokens = _likely_tokens(call.name or call.arguments)
        return Delta(index=self._choice, tokens=tokens, tool_calls=[call])

    def _count(self, usage: dict[str, Any]) -> None:
        """Take note of counts, which are totals; what is left out is as it was."""
        cached = usage.get("cache_read_input_tokens")
        if usage.get("input_tokens") is not None:
            written = count(usage.get("cache_creation_input_tokens"))
            self._usage.prompt_tokens = count(usage["input_tokens"]) + written + count(cached)
            self._usage.cached_tokens = count(cached)
        self._usage.completion_tokens = count(usage.get("output_tokens"))


def _likely_tokens(text: str) -> int:
    """Guess how many tokens a piece stands for: Anthropic's pieces are several."""
    return 1 + len(text.encode()) // BYTES_PER_TOKEN
