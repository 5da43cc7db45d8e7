"""Reading a streamed answer of OpenAI's APIs. Other people's servers may send anything."""

from typing import Any, get_args

from galley.engines.http_json import a, count
from galley.schemas.delta import Delta, FinishReason, ToolCall, Usage

_FINISH_REASONS: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}


class CallNumbers:
    """Numbers the tool calls of one answer: some servers leave `index` out, some call each 0."""

    __slots__ = ("_count", "_ids", "_indices")

    def __init__(self) -> None:
        self._count = 0
        self._ids: dict[str, int] = {}
        self._indices: dict[int | None, int] = {}  # the last call that had it; None: of all

    def of(self, index: int | None, id_: str | None, name: str | None) -> int:
        """Return the number of the call that a piece belongs to, from 0."""
        if id_ in self._ids:
            return self._ids[id_]
        known = self._indices.get(index)
        if known is None or id_ is not None or (index is None and name is not None):
            known, self._count = self._count, self._count + 1
        self._indices[index] = self._indices[None] = known
        if id_ is not None:
            self._ids[id_] = known
        return known


def deltas(event: dict[str, Any], choice: int, calls: CallNumbers) -> list[Delta]:
    """Read one event of either API as pieces of answer `choice`, which made `calls` so far.

    Raises:
        ValueError: it is not such an event.
    """
    usage = _usage(event.get("usage")) or _progress(event.get("prompt_progress"))
    found = [_delta(a(dict, part), choice, calls) for part in a(list, event.get("choices"))]
    if found and (details := event.get("__verbose")):  # llama.cpp's, where it was asked for them
        found[-1].stop_sequence = a(str, a(dict, details).get("stopping_word")) or None
    if usage is not None:
        if not found:
            return [Delta(index=choice, usage=usage)]
        found[-1].usage = usage
    return found


def _delta(part: dict[str, Any], choice: int, numbers: CallNumbers) -> Delta:
    piece = a(dict, part.get("delta") or part.get("message"))
    text = piece.get("content")
    ends = part.get("finish_reason") or part.get("logprobs")
    if len(piece) == 1 and isinstance(text, str) and not ends:  # as nearly all are
        return Delta(choice, text, "", 1 if text else 0)
    text = a(str, text) or a(str, part.get("text"))
    reasoning = a(str, piece.get("reasoning_content")) or a(str, piece.get("reasoning"))
    tokens = _tokens(a(dict, part.get("logprobs")).get("content"))
    reason = a(str, part.get("finish_reason"))
    calls = [_call(a(dict, call), numbers) for call in a(list, piece.get("tool_calls"))]
    return Delta(
        index=choice,
        text=text,
        reasoning=reasoning,
        tokens=len(tokens) if tokens else int(bool(text or reasoning or calls)),
        tool_calls=calls,
        logprobs=tokens,
        finish_reason=_FINISH_REASONS.get(reason, "stop") if reason else None,
        stop_sequence=_stop_sequence(part) if reason else None,
    )


def _stop_sequence(part: dict[str, Any]) -> str | None:
    """Read which stop sequence ended it: vLLM's word for it; a number there is a token."""
    found = part.get("stop_reason")
    return found if isinstance(found, str) else None


def _call(call: dict[str, Any], numbers: CallNumbers) -> ToolCall:
    function, index = a(dict, call.get("function")), call.get("index")
    id_, name = a(str, call.get("id")) or None, a(str, function.get("name")) or None
    return ToolCall(
        index=numbers.of(None if index is None else a(int, index), id_, name),
        id=id_,
        name=name,
        arguments=a(str, function.get("arguments")),
    )


def _tokens(found: Any) -> list[dict[str, Any]] | None:
    """Check a piece's tokens, each with its probability and those of others in its place."""
    if found is None:
        return None
    tokens = [a(dict, token) for token in a(list, found)]
    for token in tokens:
        for one in (token, *a(list, token.get("top_logprobs"))):
            a(str, a(dict, one).get("token"))
            if not isinstance(one.get("logprob"), int | float):
                raise ValueError("a token without its logprob")
    return tokens


def _usage(found: Any) -> Usage | None:
    if not (usage := a(dict, found)):
        return None
    details = a(dict, usage.get("prompt_tokens_details"))
    return Usage(
        prompt_tokens=count(usage.get("prompt_tokens")),
        completion_tokens=count(usage.get("completion_tokens")),
        cached_tokens=count(details.get("cached_tokens")),
    )


def _progress(found: Any) -> Usage | None:
    """Read llama.cpp's word on how far the prompt is: what a hang-up then is billed for."""
    if not (progress := a(dict, found)):
        return None
    processed, cached = count(progress.get("processed")), count(progress.get("cache"))
    return Usage(prompt_tokens=processed, cached_tokens=cached)
