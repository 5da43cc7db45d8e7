"""Frames of streamed chat completions."""

from typing import Any

import orjson

from galley.dialects.openai import ChatFrames
from galley.schemas.delta import Delta, ToolCall


def choices(written: bytes) -> list[dict[str, Any]]:
    events = written.decode().split("\n\n")[:-1]
    return [orjson.loads(event.removeprefix("data: "))["choices"][0] for event in events]


def test_text_beside_a_call_is_written_before_it() -> None:
    frames = ChatFrames("1", 0, "m", with_usage=False)
    both = Delta(text="Let me see.", tool_calls=[ToolCall(0, "c", "f", "{}")])
    both.finish_reason = "tool_calls"

    role, text, call = choices(frames.frame(both))

    assert role["delta"] == {"role": "assistant", "content": ""}
    assert text["delta"] == {"content": "Let me see."}
    assert call["delta"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    reasons = [choice["finish_reason"] for choice in (role, text, call)]
    assert reasons == [None, None, "tool_calls"]
