"""Reading a streamed answer of OpenAI's APIs. Other people's servers may send anything."""

from typing import Any, TypeVar, get_args

from galley.schemas.delta import Delta, FinishReason, ToolCall, Usage

T = TypeVar("T")

_FINISH_REASONS: dict[str, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
_MOST_TOKENS = 2**31 - 1


def deltas(event: dict[str, Any], choice: int) -> list[Delta]:
    """Read one event of either API as pieces of answer `choice`.

    Raises:
        ValueError: it is not such an event.
    """
    usage = _usage(event.get("usage")) or _progress(event.get("prompt_progress"))
    found = [_delta(_a(dict, part), choice) for part in _a(list, event.get("choices"))]
    if found and (details := event.get("__verbose")):  # llama.cpp's, where it was asked for them
        found[-1].stop_sequence = _a(str, _a(dict, details).get("stopping_word")) or None
    if usage is not None:
        if not found:
            return [Delta(index=choice, usage=usage)]
        found[-1].usage = usage
    return found


def _delta(part: dict[str, Any], choice: int) -> Delta:
    piece = _a(dict, part.get("delta"))
    text = _a(str, piece.get("content")) or _a(str, part.get("text"))
    reasoning = _a(str, piece.get("reasoning_content")) or _a(str, piece.get("reasoning"))
    tokens = _tokens(_a(dict, part.get("logprobs")).get("content"))
    reason = _a(str, part.get("finish_reason"))
    calls = [_call(_a(dict, call)) for call in _a(list, piece.get("tool_calls"))]
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


def _call(call: dict[str, Any]) -> ToolCall:
    function = _a(dict, call.get("function"))
    return ToolCall(
        index=_a(int, call.get("index")),
        id=_a(str, call.get("id")) or None,
        name=_a(str, function.get("name")) or None,
        arguments=_a(str, function.get("arguments")),
    )


def _tokens(found: Any) -> list[dict[str, Any]] | None:
    """Check a piece's tokens, each with its probability and those of others in its place."""
    if found is None:
        return None
    tokens = [_a(dict, token) for token in _a(list, found)]
    for token in tokens:
        for one in (token, *_a(list, token.get("top_logprobs"))):
            _a(str, _a(dict, one).get("token"))
            if not isinstance(one.get("logprob"), int | float):
                raise ValueError("a token without its logprob")
    return tokens


def _usage(found: Any) -> Usage | None:
    if not (usage := _a(dict, found)):
        return None
    details = _a(dict, usage.get("prompt_tokens_details"))
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")),
    )


def _progress(found: Any) -> Usage | None:
    """Read llama.cpp's word on how far the prompt is: what a hang-up then is billed for."""
    if not (progress := _a(dict, found)):
        return None
    processed, cached = _count(progress.get("processed")), _count(progress.get("cache"))
    return Usage(prompt_tokens=processed, cached_tokens=cached)


def _count(found: Any) -> int:
    count = _a(int, found)
    if not 0 <= count <= _MOST_TOKENS:
        raise ValueError(f"{count} tokens")
    return count


def _a(kind: type[T], found: Any) -> T:
    """Return `found`, or for null an empty one of its kind."""
    if found is None:
        return kind()
    if not isinstance(found, kind):
        raise ValueError(f"{type(found).__name__} for {kind.__name__}")
    return found
