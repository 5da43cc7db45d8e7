import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core.errors import BadRequestError, UnprocessableError
from galley.core.strict_json import MOST_NAMES, MOST_PARTS
from galley.dialects import anthropic, native, openai
from galley.dialects.base import Dialect
from galley.routers.parsing import BIG
from galley.schemas.base import Request
from galley.schemas.chat import ChatRequest
from galley.schemas.embeddings import EmbeddingRequest
from galley.schemas.messages import MessagesRequest
from tests.parsing import parse_now
from tests.schemas.bodies import VALID, changed, json_values, places

SHAPES = pytest.mark.parametrize("shape", list(VALID), ids=lambda shape: shape.__name__)
DIALECTS = pytest.mark.parametrize(
    "dialect", [openai, anthropic, native], ids=["openai", "anthropic", "native"]
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MARK = "Zq7"
LONG = MARK * 200  # longer than any message may quote
FORMS = b'{}[]:,"\\ \x00\xff\xed\xa0\x80\xef\xbb\xbf0123456789eE+-.truefalsnNaI'


def refused(shape: type[Request], body: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """What the caller is told, or nothing where `body` is taken."""
    expected = UnprocessableError if dialect is native else BadRequestError
    try:
        parse_now(shape, body, dialect)
    except expected as error:
        return dialect.error_body(error, "1")
    return None


@SHAPES
@DIALECTS
@given(value=json_values)
def test_any_json_is_taken_or_refused(
    shape: type[Request], dialect: Dialect, value: object
) -> None:
    answer = refused(shape, json.dumps(value).encode(), dialect)

    assert answer is not None, "no request is made of anything"
    assert len(json.dumps(answer)) < 10_000


@SHAPES
@DIALECTS
@given(data=st.data())
def test_a_request_with_any_value_anywhere_is_taken_or_refused(
    shape: type[Request], dialect: Dialect, data: st.DataObject
) -> None:
    body = data.draw(VALID[shape])
    value = data.draw(json_values)

    for path in [path for path, _ in places(body)]:
        answer = refused(shape, json.dumps(changed(body, path, value)).encode(), dialect)

        assert len(json.dumps(answer)) < 10_000


@SHAPES
@DIALECTS
@given(data=st.data())
def test_any_bytes_are_taken_or_refused(
    shape: type[Request], dialect: Dialect, data: st.DataObject
) -> None:
    whole = json.dumps(data.draw(VALID[shape]), ensure_ascii=data.draw(st.booleans())).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    piece = data.draw(st.binary(max_size=8) | st.lists(st.sampled_from(FORMS)).map(bytes))

    answer = refused(shape, whole[:start] + piece + whole[end:], dialect)

    assert len(json.dumps(answer)) < 10_000


@SHAPES
@DIALECTS
@given(data=st.data())
def test_a_long_text_is_never_sent_back(
    shape: type[Request], dialect: Dialect, data: st.DataObject
) -> None:
    body = data.draw(VALID[shape])
    long = data.draw(st.sampled_from([LONG, {LONG: LONG}, {LONG: 1}, [LONG], [[LONG]]]))
    into = [(*path, LONG) for path, value in places(body) if isinstance(value, dict)]

    for path in [path for path, _ in places(body)] + into:
        answer = refused(shape, json.dumps(changed(body, path, long)).encode(), dialect)

        quoted = re.findall(f"(?:{MARK})+", json.dumps(answer))
        assert all(len(found) <= 64 for found in quoted), answer


@DIALECTS
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value"),
        (b"\xff", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"model": NaN}', "NaN is not JSON"),
        (b'{"model": -Infinity}', "-Infinity is not JSON"),
        (b'{"model": "a", "model": "b"}', "'model' is given twice"),
        (b'{"model": "\\ud800"}', "hex escape"),
        (b'{"seed": ' + b"1" * 100_000 + b"}", "number out of range"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * (MOST_PARTS + 1), "too many parts"),
        (json.dumps(dict.fromkeys(map(str, range(MOST_NAMES + 1)))).encode(), "2048 names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_json_is_refused_with_the_reason(
    dialect: Dialect, body: bytes, words: str
) -> None:
    answer = refused(ChatRequest, body, dialect)

    assert words in json.dumps(answer)


@DIALECTS
def test_thousands_of_faults_make_a_short_answer(dialect: Dialect) -> None:
    body = json.dumps({"model": "m", "input": [None] * 9_000}).encode()

    answer = refused(EmbeddingRequest, body, dialect)

    assert answer is not None
    assert len(json.dumps(answer)) < 10_000


def test_a_big_body_is_parsed_as_a_small_one_is() -> None:
    text = "x" * BIG
    body = json.dumps({"model": "m", "input": text}).encode()

    request = parse_now(EmbeddingRequest, body, openai)

    assert request.input == text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]"),
        ({"stop": [""]}, "stop[0]"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream_options": {}}, None),
    ],
    ids=str,
)
def test_the_field_at_fault_is_named(change: dict[str, Any], param: str | None) -> None:
    answer = refused(ChatRequest, json.dumps(CHAT | change).encode(), openai)

    assert answer is not None
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages.0.content.0: 'type' should be one of 'text', 'image',",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text: Field required"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name: String should match"),
        ({"tool_choice": {"type": "any"}}, "tool_choice 'any' needs tools"),
    ],
    ids=str,
)  # fmt: skip
def test_anthropics_clients_read_of_the_fault_as_theirs_would_say_it(
    change: dict[str, Any], words: str
) -> None:
    body = json.dumps(CHAT | {"max_tokens": 1} | change).encode()

    answer = refused(MessagesRequest, body, anthropic)

    assert answer is not None
    assert answer["error"]["message"].startswith(words)
    assert answer["error"]["type"] == "invalid_request_error"


def test_native_routes_list_every_fault_without_the_input() -> None:
    body = json.dumps({"messages": 1, "temperature": "hot", "extra": 0}).encode()

    answer = refused(ChatRequest, body, native)

    assert answer is not None
    assert {"type": "missing", "loc": ["body", "model"], "msg": "Field required"} in answer[
        "detail"
    ]
    assert {fault["loc"][1] for fault in answer["detail"]} == {
        "model", "messages", "temperature", "extra",
    }  # fmt: skip
    assert all(set(fault) == {"type", "loc", "msg"} for fault in answer["detail"])
