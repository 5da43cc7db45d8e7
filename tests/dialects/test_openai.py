"""OpenAI's frames."""

from typing import Any

import orjson

from galley.dialects.openai import ChatFrames, chat_body
from galley.schemas.delta import Answer, Delta, ToolCall, Usage


def written(*deltas: Delta, with_usage: bool = False) -> list[dict[str, Any]]:
    frames = ChatFrames("1", 2, "m", with_usage=with_usage)
    stream = b"".join(frames.frame(delta) for delta in deltas)
    return [orjson.loads(event.removeprefix(b"data: ")) for event in stream.split(b"\n\n")[:-1]]


def pieces(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events]


def test_a_delta_that_brings_nothing_writes_nothing() -> None:
    assert written(Delta(usage=Usage(3)), Delta()) == []


def test_text_by_hand_is_the_same_as_text_by_the_serialiser() -> None:
    odd = 'a "quoted" \\ line\n\u2028 \N{GRINNING FACE} \x00'

    fast, slow = written(Delta(text=odd)), written(Delta(text=odd, finish_reason="stop"))

    opening = {"role": "assistant", "content": "", "refusal": None}
    assert pieces(fast) == pieces(slow) == [opening, {"content": odd}]
    assert set(fast[1]) == set(slow[1]) == {"id", "object", "created", "model", "choices"}


def test_text_beside_a_call_comes_before_it_and_the_reason_comes_last() -> None:
    delta = Delta(text="Let me look.", tool_calls=[ToolCall(0, "c", "f", "{}")])
    delta.finish_reason = "tool_calls"

    events = written(delta)

    _, text, call = pieces(events)
    assert text == {"content": "Let me look."}
    assert call["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert [e["choices"][0]["finish_reason"] for e in events] == [None, None, "tool_calls"]


def test_reasoning_has_a_field_of_its_own() -> None:
    _, thought, said = pieces(written(Delta(reasoning="Hm."), Delta(text="Hey")))
    whole = chat_body("1", 2, "m", [Answer(text="Hey", reasoning="Hm.")], Usage())

    assert (thought, said) == ({"reasoning_content": "Hm."}, {"content": "Hey"})
    assert whole["choices"][0]["message"]["reasoning_content"] == "Hm."


def test_every_choice_opens_with_its_role_once() -> None:
    events = written(Delta(index=1, text="a"), Delta(index=0, text="b"), Delta(index=1, text="c"))

    roles = [e["choices"][0]["index"] for e in events if "role" in e["choices"][0]["delta"]]
    assert roles == [1, 0]
