"""Responses, to the letter of OpenAI's API, on the embedded model."""

from typing import Any

import httpx2
import pytest
from openai.types.responses import Response

from tests.serving import LiveServer
from tests.sse import read_named_events

PATH = "/v1/responses"
QUESTION = {"role": "user", "content": "What is FastAPI?"}
CLOCK: dict[str, Any] = {
    "type": "function",
    "name": "get_time",
    "parameters": {
        "type": "object",
        "properties": {"zone": {"enum": ["CET", "UTC"]}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SEARCH = {"type": "web_search", "search_context_size": "low"}
CALLED = [
    {"role": "user", "content": "What is the weather in Paris?"},
    {
        "type": "function_call", "call_id": "c1",
        "name": "get_weather", "arguments": '{"city":"Paris"}',
    },
    {"type": "function_call_output", "call_id": "c1", "output": "17 degrees"},
]  # fmt: skip


def ask(server: LiveServer, **changes: Any) -> httpx2.Response:
    body: dict[str, Any] = {
        "model": "galley/chat",
        "input": "What is FastAPI?",
        "max_output_tokens": 8,
        "temperature": 0,
    }
    return server.post(PATH, **body | changes)


def text_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["output"]
    (part,) = item["content"]
    return part["text"]


def as_user(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_whole_response_has_every_field_of_the_api(live_server: LiveServer) -> None:
    answer = ask(live_server, metadata={"a": "b"})

    body = answer.json()
    assert body["id"] == f"resp_{answer.headers['request-id'].replace('-', '')}"
    assert (body["object"], body["model"]) == ("response", "smollm2-135m-instruct")
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(answer).startswith("FastAPI")
    assert (body["store"], body["metadata"], body["temperature"]) == (True, {"a": "b"}, 0)
    assert body["usage"]["output_tokens"] == 8
    assert Response.model_validate(body, strict=True).output_text == text_of(answer)


def test_an_answer_that_ends_by_itself_is_complete(live_server: LiveServer) -> None:
    body = ask(live_server, input="Say hello.", max_output_tokens=60).json()

    assert (body["status"], body["incomplete_details"]) == ("completed", None)
    assert body["output"][0]["status"] == "completed"
    assert body["created_at"] <= body["completed_at"]


def test_a_streamed_response_joins_to_the_whole_one(live_server: LiveServer) -> None:
    whole = ask(live_server)

    answer = ask(live_server, stream=True)

    events = read_named_events(answer)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        *["output_text.delta"] * 8, "output_text.done", "content_part.done", "output_item.done",
        "incomplete",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    pieces = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(pieces) == text_of(whole)
    last = events[-1]["response"]
    assert last["id"] == f"resp_{answer.headers['request-id'].replace('-', '')}"
    assert last["output"][0]["content"] == whole.json()["output"][0]["content"]
    assert last["usage"]["output_tokens"] == whole.json()["usage"]["output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_ledger_has_what_the_response_says(live_server: LiveServer, stream: bool) -> None:
    answer = ask(live_server, stream=stream)

    body = read_named_events(answer)[-1]["response"] if stream else answer.json()
    row = live_server.row(answer)
    assert (row["endpoint"], row["state"], row["stream"]) == ("responses", "completed", stream)
    assert row["prompt_tokens"] == body["usage"]["input_tokens"]
    assert row["completion_tokens"] == body["usage"]["output_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_can_be_looked_up_as_it_was_answered(
    live_server: LiveServer, stream: bool
) -> None:
    answer = ask(live_server, stream=stream)
    body = read_named_events(answer)[-1]["response"] if stream else answer.json()

    found = live_server.client.get(f"{PATH}/{body['id']}")

    assert found.status_code == 200, found.text
    assert found.json() == body


def test_a_response_that_is_not_stored_is_nowhere(live_server: LiveServer) -> None:
    body = ask(live_server, store=False).json()

    lost = live_server.client.get(f"{PATH}/{body['id']}")

    assert body["store"] is False
    assert lost.status_code == 404


def test_a_response_goes_on_from_another_without_its_instructions(live_server: LiveServer) -> None:
    first = ask(live_server, instructions="Answer in French.")
    said = [QUESTION, {"role": "assistant", "content": text_of(first)}, QUESTION]

    answer = ask(live_server, previous_response_id=first.json()["id"])

    spelled = ask(live_server, input=said)
    assert text_of(answer) == text_of(spelled)
    assert answer.json()["usage"]["input_tokens"] == spelled.json()["usage"]["input_tokens"]
    assert answer.json()["previous_response_id"] == first.json()["id"]


def test_what_a_response_goes_on_from_is_there_when_that_was_deleted(
    live_server: LiveServer,
) -> None:
    first = ask(live_server).json()["id"]
    second = ask(live_server, previous_response_id=first)

    gone = live_server.client.delete(f"{PATH}/{first}")
    third = ask(live_server, previous_response_id=second.json()["id"])

    assert gone.json() == {"id": first, "object": "response", "deleted": True}
    assert live_server.client.get(f"{PATH}/{first}").status_code == 404
    assert live_server.client.delete(f"{PATH}/{first}").status_code == 404
    grown = third.json()["usage"]["input_tokens"] - second.json()["usage"]["input_tokens"]
    assert grown > 8


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_goes_on_from_a_response_of_someone_else_or_sees_it(
    live_server: LiveServer, stream: bool
) -> None:
    body = ask(live_server).json()
    stranger = as_user(live_server.key_of_new_user())
    reference = {"type": "item_reference", "id": body["output"][0]["id"]}
    asked = {"model": "galley/chat", "stream": stream}

    answers = [
        live_server.client.get(f"{PATH}/{body['id']}", headers=stranger),
        live_server.client.delete(f"{PATH}/{body['id']}", headers=stranger),
        live_server.client.get(f"{PATH}/{body['id']}/input_items", headers=stranger),
        live_server.client.post(
            PATH,
            headers=stranger,
            json=asked | {"input": "Go on.", "previous_response_id": body["id"]},
        ),
        live_server.client.post(PATH, headers=stranger, json=asked | {"input": [reference]}),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert [answer.json()["error"]["code"] for answer in answers] == [
        *["response_not_found"] * 3, "previous_response_not_found", "item_not_found",
    ]  # fmt: skip
    assert live_server.client.get(f"{PATH}/{body['id']}").status_code == 200


def test_an_item_can_be_referred_to_by_its_id(live_server: LiveServer) -> None:
    first = ask(live_server)
    reference = {"type": "item_reference", "id": first.json()["output"][0]["id"]}
    said = {"role": "assistant", "content": text_of(first)}

    answer = ask(live_server, input=[QUESTION, reference, QUESTION])

    assert text_of(answer) == text_of(ask(live_server, input=[QUESTION, said, QUESTION]))


def test_what_the_model_was_told_is_listed_in_pages(live_server: LiveServer) -> None:
    first = ask(live_server).json()
    second = ask(live_server, input=CALLED, previous_response_id=first["id"]).json()
    path = f"{PATH}/{second['id']}/input_items"

    whole = live_server.client.get(path, params={"order": "asc"}).json()
    latest = live_server.client.get(path, params={"limit": 2}).json()
    rest = live_server.client.get(path, params={"limit": 3, "after": latest["last_id"]}).json()

    assert [item["type"] for item in whole["data"]] == [
        "message", "message", "message", "function_call", "function_call_output",
    ]  # fmt: skip
    assert whole["data"][1]["id"] == first["output"][0]["id"]
    assert [*latest["data"], *rest["data"]] == whole["data"][::-1]
    assert (whole["has_more"], latest["has_more"], rest["has_more"]) == (False, True, False)
    assert (latest["first_id"], latest["last_id"]) == tuple(i["id"] for i in latest["data"])
    assert live_server.client.get(path, params={"after": "nobody"}).status_code == 400


def test_items_keep_the_ids_that_they_come_with(live_server: LiveServer) -> None:
    body = ask(live_server, input=[QUESTION | {"id": "msg_mine"}]).json()

    items = live_server.client.get(f"{PATH}/{body['id']}/input_items").json()

    assert items["first_id"] == items["last_id"] == "msg_mine"


def test_a_response_that_is_kept_is_not_streamed_again(live_server: LiveServer) -> None:
    body = ask(live_server).json()

    refused = live_server.client.get(f"{PATH}/{body['id']}", params={"stream": "true"})

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stream"


@pytest.mark.parametrize("identity", ["resp_", "resp_1", "msg_1", "x" * 300])
def test_what_is_no_id_is_not_found(live_server: LiveServer, identity: str) -> None:
    lost = live_server.client.get(f"{PATH}/{identity}")

    assert lost.status_code == 404
    assert lost.json()["error"]["code"] == "response_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_a_function_call_item(live_server: LiveServer, stream: bool) -> None:
    asked: dict[str, Any] = {"tools": [CLOCK], "tool_choice": "required", "max_output_tokens": 60}

    answer = ask(live_server, **asked, stream=stream)

    body = read_named_events(answer)[-1]["response"] if stream else answer.json()
    (call,) = body["output"]
    assert (call["type"], call["name"], call["status"]) == (
        "function_call", "get_time", "completed",
    )  # fmt: skip
    assert httpx2.Response(200, text=call["arguments"]).json()["zone"] in {"CET", "UTC"}
    assert body["status"] == "completed"
    if stream:
        events = read_named_events(answer)
        pieces = [e["delta"] for e in events if e["type"].endswith("arguments.delta")]
        (done,) = [e for e in events if e["type"].endswith("arguments.done")]
        assert "".join(pieces) == done["arguments"] == call["arguments"]


def test_the_output_of_a_call_is_read(live_server: LiveServer) -> None:
    answer = ask(live_server, input=CALLED, tools=[WEATHER], max_output_tokens=20)

    assert "17" in text_of(answer)


def test_a_tool_of_openais_own_is_recorded_and_not_mentioned(live_server: LiveServer) -> None:
    answer = ask(live_server, tools=[SEARCH, CLOCK], tool_choice="none")

    assert text_of(answer) == text_of(ask(live_server))
    assert [tool["name"] for tool in answer.json()["tools"]] == ["get_time"]
    assert live_server.row(answer)["ignored_fields"] == "tools[0]"


def test_a_schema_shapes_the_answer(live_server: LiveServer) -> None:
    wanted = {"type": "json_schema", "name": "time", "schema": CLOCK["parameters"]}

    answer = ask(live_server, text={"format": wanted}, max_output_tokens=60)

    assert httpx2.Response(200, text=text_of(answer)).json()["zone"] in {"CET", "UTC"}
    assert answer.json()["text"]["format"]["schema"] == CLOCK["parameters"]


@pytest.mark.parametrize(
    "asked", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}]
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_probabilities_of_tokens_are_told_where_they_are_asked_for(
    live_server: LiveServer, asked: dict[str, Any], stream: bool
) -> None:
    answer = ask(live_server, **asked, stream=stream)

    body = read_named_events(answer)[-1]["response"] if stream else answer.json()
    (part,) = body["output"][0]["content"]
    assert "".join(token["token"] for token in part["logprobs"]) == part["text"]
    for token in part["logprobs"]:
        assert token["logprob"] <= 0
        assert bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == asked.get("top_logprobs", 0)


def test_fields_without_a_meaning_here_are_accepted_and_recorded(live_server: LiveServer) -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}

    answer = ask(
        live_server,
        input=[QUESTION, thought],
        reasoning={"effort": "low"},
        include=["reasoning.encrypted_content"],
        truncation="auto",
        service_tier="auto",
        user="u",
        stream_options={"include_obfuscation": False},
        client_metadata={"session_id": "1"},
    )

    assert text_of(answer) == text_of(ask(live_server))
    assert live_server.row(answer)["ignored_fields"] == (
        "client_metadata,include[0],include_obfuscation,reasoning,service_tier,summary,truncation,user"
    )


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"background": True}, "background", "False"),
        ({"conversation": "conv_1"}, "conversation", "null"),
        ({"prompt": {"id": "p"}}, "prompt", "null"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"frequency_penalty": 1}, "frequency_penalty", "Unrecognized"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "item_reference"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]", "input_image",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "a"}]}]},
            "input[0]", "output_text cannot be in a message of role user",
        ),
        (
            {"input": [{"role": "user", "content": [
                {"type": "input_image", "image_url": "https://example.org/cat.png"}
            ]}]},
            "input[0].content[0].image_url", "addresses are not fetched",
        ),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input", "at least 1"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "no item 'x'"),
        ({"input": [{"type": "item_reference", "id": "x"}] * 2}, "input", "more than once"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "json_schema"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"tool_choice": {"type": "function", "name": "f"}}, None, "not in tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "You have no response"),
        ({"input": "word " * 3000}, "input", "2048"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name_in_openais_envelope(
    live_server: LiveServer, changes: dict[str, Any], param: str | None, words: str, stream: bool
) -> None:
    refused = ask(live_server, **changes, stream=stream)

    assert refused.status_code in {400, 404}
    error = refused.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert live_server.row(refused)["state"] == "refused"


def test_over_the_limit_is_refused_and_looking_up_is_not(live_server: LiveServer) -> None:
    user = as_user(live_server.key_of_new_user(limits={"requests_per_minute": 1}))
    body = {"model": "galley/chat", "input": "Hi", "max_output_tokens": 2, "stream": True}

    first, refused = (live_server.client.post(PATH, json=body, headers=user) for _ in range(2))

    found = live_server.client.get(
        f"{PATH}/{read_named_events(first)[-1]['response']['id']}", headers=user
    )
    assert (refused.status_code, found.status_code) == (429, 200)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
