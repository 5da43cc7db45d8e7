"""Chat completions, to the letter of OpenAI's specification."""

import json
import math
from typing import Any

import httpx2
import pytest

from galley.schemas.chat import ChatCompletion, ChatCompletionChunk
from tests.serving import LiveServer
from tests.sse import DONE, read_events

PATH = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "What is FastAPI?"}
END_OF_TURN = 2  # SmolLM2's token <|im_end|>


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    body: dict[str, Any] = {
        "model": "galley/chat",
        "messages": [QUESTION],
        "max_tokens": 8,
        "temperature": 0,
    }
    return server.post(PATH, **body | changes)


def text_of(answer: httpx2.Response, choice: int = 0) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][choice]["message"]["content"]


def streamed_text(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


def test_a_whole_answer_has_every_field_of_the_specification(live_server: LiveServer) -> None:
    answer = ask(live_server)

    body = answer.json()
    ChatCompletion.model_validate(body)
    assert body["id"] == f"chatcmpl-{answer.headers['request-id']}"
    assert body["object"] == "chat.completion"
    assert body["model"] == "smollm2-135m-instruct"
    (choice,) = body["choices"]
    assert set(choice) == {"index", "message", "logprobs", "finish_reason"}
    assert set(choice["message"]) == {"role", "content", "refusal"}
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].startswith("FastAPI")
    assert choice["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_a_stream_has_the_role_first_then_text_then_the_reason_it_ended(
    live_server: LiveServer,
) -> None:
    whole = text_of(ask(live_server))

    answer = ask(live_server, stream=True)

    *chunks, end = read_events(answer)
    assert end == DONE
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        assert set(chunk) == {"id", "object", "created", "model", "choices"}
        assert chunk["object"] == "chat.completion.chunk"
        assert len(chunk["choices"]) == 1
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{answer.headers['request-id']}"}
    assert len({(chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    first, *between, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(set(choice["delta"]) == {"content"} for choice in between)
    assert last["delta"] == {}
    assert [choice["finish_reason"] for choice in (first, *between)] == [None] * len(chunks[:-1])
    assert last["finish_reason"] == "length"
    assert len(between) == 8
    assert streamed_text(chunks) == whole


def test_only_a_stream_that_is_asked_for_its_usage_ends_with_it(live_server: LiveServer) -> None:
    whole = ask(live_server).json()

    answer = ask(live_server, stream=True, stream_options={"include_usage": True})

    *chunks, last, end = read_events(answer)
    assert end == DONE
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert last["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert set(last) == {"id", "object", "created", "model", "choices", "usage"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_share_one_prompt(live_server: LiveServer, stream: bool) -> None:
    alone = ask(live_server).json()["usage"]["prompt_tokens"]

    answer = ask(
        live_server, n=3, stream=stream, stream_options={"include_usage": True} if stream else None
    )

    if stream:
        *chunks, last, _ = read_events(answer)
        texts, usage = [streamed_text(chunks, index) for index in range(3)], last["usage"]
        roles = [c for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
        assert sorted(choice["index"] for choice in roles) == [0, 1, 2]
        reasons = [c for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
        assert sorted(choice["index"] for choice in reasons) == [0, 1, 2]
    else:
        texts, usage = [text_of(answer, index) for index in range(3)], answer.json()["usage"]
    assert len(set(texts)) == 1, "temperature 0 gives one text"
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (alone, 24)
    row = live_server.row(answer)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (alone, 24)


def test_a_seed_makes_chance_repeatable(live_server: LiveServer) -> None:
    first = text_of(ask(live_server, temperature=1.5, seed=7, max_tokens=16))
    again = text_of(ask(live_server, temperature=1.5, seed=7, max_tokens=16))
    other = text_of(ask(live_server, temperature=1.5, seed=8, max_tokens=16))

    assert first == again
    assert first != other


def test_the_likeliest_token_alone_is_no_choice(live_server: LiveServer) -> None:
    greedy = text_of(ask(live_server))

    assert text_of(ask(live_server, temperature=1.5, top_k=1)) == greedy


def test_seeded_choices_differ_among_themselves(live_server: LiveServer) -> None:
    answer = ask(live_server, temperature=1.5, seed=7, n=2, max_tokens=16)

    assert text_of(answer, 0) != text_of(answer, 1)


@pytest.mark.parametrize("stop", ["API", ["nothing like it", "API"]])
def test_the_answer_ends_before_a_stop_sequence(
    live_server: LiveServer, stop: str | list[str]
) -> None:
    answer = ask(live_server, stop=stop)

    assert text_of(answer) == "Fast"
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_the_newer_name_of_the_limit_wins(live_server: LiveServer) -> None:
    answer = ask(live_server, max_completion_tokens=3, max_tokens=8)

    assert answer.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("top", [None, 0, 2])
def test_logprobs_come_with_as_many_others_as_asked(
    live_server: LiveServer, stream: bool, top: int | None
) -> None:
    answer = ask(live_server, logprobs=True, top_logprobs=top, max_tokens=3, stream=stream)

    if stream:
        chunks = read_events(answer)[:-1]
        found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        tokens = [token for logprobs in found if logprobs for token in logprobs["content"]]
    else:
        logprobs = answer.json()["choices"][0]["logprobs"]
        assert set(logprobs) == {"content", "refusal"}
        tokens = logprobs["content"]
    assert "".join(token["token"] for token in tokens) == "FastAPI is"
    for token in tokens:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert 0 < math.exp(token["logprob"]) <= 1
        assert bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == (top or 0)


def test_json_mode_answers_in_json(live_server: LiveServer) -> None:
    told = {"role": "user", "content": "Answer with the JSON object {} and nothing else."}

    answer = ask(
        live_server, messages=[told], response_format={"type": "json_object"}, max_tokens=120
    )

    text = text_of(answer)
    if answer.json()["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    else:  # a small model may find no end, but it is JSON as far as it goes
        assert text.lstrip().startswith("{")


def test_a_json_schema_shapes_the_answer(live_server: LiveServer) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["library", "planet"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["name", "kind", "stars"],
        "additionalProperties": False,
    }

    answer = ask(
        live_server,
        response_format={"type": "json_schema", "json_schema": {"name": "fact", "schema": schema}},
        max_tokens=80,
    )

    found = json.loads(text_of(answer))
    assert set(found) == {"name", "kind", "stars"}
    assert len(found["name"]) <= 12
    assert found["kind"] in {"library", "planet"}
    assert 1 <= found["stars"] <= 5


def test_a_bias_decides_what_comes_next(live_server: LiveServer) -> None:
    answer = ask(live_server, logit_bias={str(END_OF_TURN): 100})

    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


def test_a_penalty_keeps_words_from_coming_again(live_server: LiveServer) -> None:
    repeat = [{"role": "user", "content": "Say: no no no no no no no no no no no no"}]

    plain = text_of(ask(live_server, messages=repeat, max_tokens=24))
    varied = text_of(
        ask(live_server, messages=repeat, max_tokens=24, frequency_penalty=2, presence_penalty=2)
    )

    assert len(set(varied.split())) > len(set(plain.split()))


def test_a_developer_message_is_a_system_message(live_server: LiveServer) -> None:
    rule = "Answer in French."

    texts = [
        text_of(ask(live_server, messages=[{"role": role, "content": rule}, QUESTION]))
        for role in ("developer", "system")
    ]

    assert texts[0] == texts[1]
    assert texts[0] != text_of(ask(live_server))


def test_content_in_parts_is_the_content_joined(live_server: LiveServer) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "FastAPI?"}]

    answer = ask(live_server, messages=[{"role": "user", "content": parts}])

    assert answer.json()["usage"]["prompt_tokens"] == pytest.approx(
        ask(live_server).json()["usage"]["prompt_tokens"], abs=1
    )
    assert "API" in text_of(answer)


def test_a_message_of_an_answer_can_be_sent_back_as_it_is(live_server: LiveServer) -> None:
    said = ask(live_server).json()["choices"][0]["message"]
    of_the_sdk = said | {
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    more = {"role": "user", "content": "Go on."}

    answer = ask(live_server, messages=[QUESTION, of_the_sdk, more])

    assert text_of(answer)


def test_nulls_stand_for_what_is_unset(live_server: LiveServer) -> None:
    unset = ["stream", "stream_options", "n", "stop", "seed", "top_p", "logprobs", "logit_bias"]

    answer = ask(live_server, **dict.fromkeys(unset))

    assert text_of(answer) == text_of(ask(live_server))


def test_inert_fields_are_accepted_and_recorded(live_server: LiveServer) -> None:
    answer = ask(
        live_server,
        user="u-1",
        metadata={"team": "a"},
        store=False,
        messages=[QUESTION | {"annotations": []}],
    )

    assert answer.status_code == 200
    assert live_server.row(answer)["ignored_fields"] == "annotations,metadata,store,user"


def test_a_plain_request_has_no_ignored_fields(live_server: LiveServer) -> None:
    assert live_server.row(ask(live_server))["ignored_fields"] is None


@pytest.mark.parametrize("name", ["nonsense", "maxTokens", "chat_template", "grammar"])
def test_an_unknown_field_is_refused_by_its_name(live_server: LiveServer, name: str) -> None:
    refused = ask(live_server, **{name: 1})

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"] == f"Unrecognized request argument supplied: {name}."
    assert (error["type"], error["param"]) == ("invalid_request_error", name)


def test_an_unknown_field_inside_is_refused_by_its_path(live_server: LiveServer) -> None:
    part = {"type": "text", "text": "hi", "cacheControl": {}}

    refused = ask(live_server, messages=[QUESTION, {"role": "user", "content": [part]}])

    assert refused.json()["error"]["param"] == "messages[1].content[0].cacheControl"


def test_a_prompt_over_the_context_is_refused_with_both_numbers(live_server: LiveServer) -> None:
    refused = ask(live_server, messages=[{"role": "user", "content": "word " * 3000}], stream=True)

    error = refused.json()["error"]
    assert refused.status_code == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "2048" in error["message"]
    assert "3031" in error["message"]
    row = live_server.row(refused)
    assert (row["state"], row["completion_tokens"], row["stream"]) == ("refused", 0, 1)


def test_model_names_are_echoed_as_the_model_that_answered(live_server: LiveServer) -> None:
    answer = ask(live_server, model="smollm2-135m-instruct", max_tokens=1)

    row = live_server.row(ask(live_server, max_tokens=1))
    assert answer.json()["model"] == "smollm2-135m-instruct"
    assert (row["model"], row["served_model"]) == ("galley/chat", "smollm2-135m-instruct")
