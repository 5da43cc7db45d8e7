"""Text completions, to the letter of OpenAI's specification."""

from typing import Any

import httpx2
import pytest

from galley.schemas.completions import Completion
from tests.serving import LiveServer
from tests.sse import DONE, read_events

PROMPT = "The capital of France is"


def complete(server: LiveServer, **changes: Any) -> httpx2.Response:
    body = {"model": "galley/chat", "prompt": PROMPT, "max_tokens": 3, "temperature": 0}
    return server.post("/v1/completions", **body | changes)


def texts_of(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def test_a_whole_answer_has_every_field_of_the_specification(live_server: LiveServer) -> None:
    answer = complete(live_server)

    body = answer.json()
    Completion.model_validate(body)
    assert body["id"] == f"cmpl-{answer.headers['request-id']}"
    assert body["object"] == "text_completion"
    assert set(body["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    assert body["choices"][0]["finish_reason"] == "length"
    assert texts_of(answer)[0].startswith(" Paris")
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["total_tokens"] == 8


def test_sixteen_tokens_are_made_where_no_limit_is_given(live_server: LiveServer) -> None:
    answer = complete(live_server, max_tokens=None)

    assert answer.json()["usage"]["completion_tokens"] == 16


def test_every_prompt_is_answered_n_times_in_order(live_server: LiveServer) -> None:
    (paris,) = texts_of(complete(live_server))
    (rome,) = texts_of(complete(live_server, prompt="The capital of Italy is"))

    answer = complete(live_server, prompt=[PROMPT, "The capital of Italy is"], n=2)

    assert texts_of(answer) == [paris, paris, rome, rome]
    assert answer.json()["usage"]["prompt_tokens"] == 10
    assert answer.json()["usage"]["completion_tokens"] == 12


def test_token_ids_are_prompts_too(live_server: LiveServer) -> None:
    one = complete(live_server, prompt=[504, 3575, 282])
    two = complete(live_server, prompt=[[504, 3575, 282], [504, 3575]])

    assert one.json()["usage"]["prompt_tokens"] == 3
    assert texts_of(two)[0] == texts_of(one)[0]
    assert two.json()["usage"]["prompt_tokens"] == 5


def test_unknown_token_ids_are_refused(live_server: LiveServer) -> None:
    refused = complete(live_server, prompt=[99_999_999])

    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_first(live_server: LiveServer, stream: bool) -> None:
    plain = texts_of(complete(live_server))[0]

    answer = complete(live_server, echo=True, stream=stream)

    if stream:
        text = "".join(event["choices"][0]["text"] for event in read_events(answer)[:-1])
    else:
        text = texts_of(answer)[0]
    assert text == PROMPT + plain


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_the_older_shape(live_server: LiveServer, count: int, stream: bool) -> None:
    answer = complete(live_server, logprobs=count, stream=stream)

    if stream:
        found = [event["choices"][0] for event in read_events(answer)[:-1]]
        text = "".join(choice["text"] for choice in found)
        each = [choice["logprobs"] for choice in found if choice["logprobs"]]
        logprobs = {name: [item for part in each for item in part[name]] for name in each[0]}
    else:
        text, logprobs = texts_of(answer)[0], answer.json()["choices"][0]["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(logprobs["tokens"]) == text
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert text[offset:].startswith(token)
    assert [len(others) for others in logprobs["top_logprobs"]] == [count] * 3


def test_a_stream_ends_with_the_reason_the_usage_and_done(live_server: LiveServer) -> None:
    answer = complete(live_server, stream=True, stream_options={"include_usage": True})

    *chunks, usage, end = read_events(answer)
    assert end == DONE
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert "".join(c["choices"][0]["text"] for c in chunks) == texts_of(complete(live_server))[0]


def test_a_stream_that_is_not_asked_for_usage_has_none(live_server: LiveServer) -> None:
    *chunks, end = read_events(complete(live_server, stream=True, prompt=[PROMPT, "Two plus"]))

    assert end == DONE
    assert all(set(chunk) == {"id", "object", "created", "model", "choices"} for chunk in chunks)
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


def test_a_stop_sequence_ends_the_text_before_it(live_server: LiveServer) -> None:
    answer = complete(live_server, stop=[" Paris"])

    assert texts_of(answer) == [""]
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_a_seed_makes_chance_repeatable(live_server: LiveServer) -> None:
    drawn = [
        texts_of(complete(live_server, temperature=1.5, seed=seed, max_tokens=12))
        for seed in (1, 1, 2)
    ]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["fine", ""]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": ["a"] * 9, "n": 8}, None),
        ({"echo": True, "logprobs": 1}, None),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    live_server: LiveServer, changes: dict[str, Any], param: str | None
) -> None:
    refused = complete(live_server, **changes)

    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == param


@pytest.mark.parametrize("prompt", ["word " * 2500, [504] * 2500])
def test_a_prompt_over_the_context_is_refused_with_both_numbers(
    live_server: LiveServer, prompt: Any
) -> None:
    refused = complete(live_server, prompt=prompt)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "2048" in error["message"]
    assert "250" in error["message"]
