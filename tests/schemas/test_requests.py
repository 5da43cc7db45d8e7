import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core.errors import BadRequestError
from galley.dialects import openai
from galley.schemas.base import Request
from galley.schemas.chat import MAX_TOKENS, ChatRequest, SimpleChatRequest
from galley.schemas.classify import ClassifyBatchRequest, ClassifyRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.embeddings import EmbeddingRequest
from galley.schemas.messages import CountTokensRequest, MessagesRequest
from galley.schemas.responses import ResponsesRequest
from tests.parsing import parse_now
from tests.schemas.bodies import INT64, VALID, changed, places, spelled

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SMALLEST: dict[type[Request], dict[str, Any]] = {
    ChatRequest: CHAT | {"logprobs": True},
    SimpleChatRequest: {"messages": CHAT["messages"]},
    CompletionRequest: {"model": "m", "prompt": "hi"},
    MessagesRequest: CHAT | {"max_tokens": 1},
    CountTokensRequest: CHAT,
    ResponsesRequest: {"model": "m", "input": "hi"},
    EmbeddingRequest: {"model": "m", "input": "hi"},
    ClassifyRequest: {"image": "-"},
    ClassifyBatchRequest: {"images": [{"image": "-"}]},
}
SAMPLING = {
    "max_tokens": (1, MAX_TOKENS),
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "seed": (-INT64, INT64 - 1),
    "n": (1, 16),
}
BOUNDS: dict[type[Request], dict[str, tuple[float, float]]] = {
    ChatRequest: SAMPLING
    | {
        "max_completion_tokens": (1, MAX_TOKENS),
        "top_logprobs": (0, 20),
        "top_k": (0, MAX_TOKENS),
    },
    SimpleChatRequest: {"max_tokens": (1, MAX_TOKENS), "temperature": (0.0, 2.0)},
    CompletionRequest: SAMPLING | {"logprobs": (0, 5)},
    MessagesRequest: {
        "max_tokens": (1, MAX_TOKENS),
        "temperature": (0.0, 1.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, MAX_TOKENS),
    },
    CountTokensRequest: {},
    ResponsesRequest: {
        "max_output_tokens": (1, MAX_TOKENS),
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "top_logprobs": (0, 20),
    },
    EmbeddingRequest: {"dimensions": (1, 65_536)},
    ClassifyRequest: {},
    ClassifyBatchRequest: {"top_k": (1, 1000), "threshold": (0.0, 1.0)},
}
SHAPES = pytest.mark.parametrize("shape", list(VALID), ids=lambda shape: shape.__name__)
NUMBERS = pytest.mark.parametrize(
    ("shape", "field", "bounds"),
    [(shape, field, of) for shape, named in BOUNDS.items() for field, of in named.items()],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)


def read(shape: type[Request], body: Any) -> Request:
    return parse_now(shape, json.dumps(body).encode(), openai)


def written(value: Any) -> Any:
    """What was read, with the fields that are not sent on."""
    if isinstance(value, list):
        return [written(item) for item in value]
    if not isinstance(value, Request):
        return value
    fields = type(value).model_fields
    return {fields[n].alias or n: written(getattr(value, n)) for n in value.model_fields_set}


@SHAPES
@given(data=st.data())
def test_a_valid_request_is_read_and_loses_nothing(
    shape: type[Request], data: st.DataObject
) -> None:
    body = data.draw(VALID[shape])

    request = read(shape, body)

    assert written(request) == body
    assert request.ignored == sorted(set(request.ignored))


@SHAPES
@given(data=st.data())
def test_an_unknown_field_is_refused_by_name_wherever_it_stands(
    shape: type[Request], data: st.DataObject
) -> None:
    body = data.draw(VALID[shape])
    unknown = "x" + data.draw(st.text(max_size=20))
    for place in [path for path, value in places(body) if isinstance(value, dict)]:
        path = (*place, unknown)

        with pytest.raises(BadRequestError) as refused:
            read(shape, changed(body, path, None))

        assert refused.value.param == spelled(path)
        assert "Unrecognized" in refused.value.message


@SHAPES
@given(data=st.data())
def test_a_required_field_that_is_missing_is_asked_for(
    shape: type[Request], data: st.DataObject
) -> None:
    required = [name for name, field in shape.model_fields.items() if field.is_required()]
    missing = data.draw(st.sampled_from(required))
    body = {name: value for name, value in SMALLEST[shape].items() if name != missing}

    with pytest.raises(BadRequestError) as refused:
        read(shape, body)

    assert refused.value.param == missing


@SHAPES
def test_every_number_has_bounds(shape: type[Request]) -> None:
    numbers = {
        name
        for name, spec in shape.model_json_schema()["properties"].items()
        for kind in [spec, *spec.get("anyOf", ())]
        if kind.get("type") in ("integer", "number") and "const" not in kind
    }

    assert numbers == set(BOUNDS[shape])


@NUMBERS
@given(data=st.data())
def test_a_number_within_its_bounds_is_taken(
    shape: type[Request], field: str, bounds: tuple[float, float], data: st.DataObject
) -> None:
    low, high = bounds
    kind = st.integers if isinstance(low, int) else st.floats
    value = data.draw(kind(low, high) | st.sampled_from(bounds))  # pyright: ignore[reportArgumentType] - both are of one kind

    request = read(shape, SMALLEST[shape] | {field: value})

    assert getattr(request, field) == value


@NUMBERS
@given(data=st.data())
def test_a_number_out_of_bounds_is_refused_by_name(
    shape: type[Request], field: str, bounds: tuple[float, float], data: st.DataObject
) -> None:
    low, high = bounds
    outside = st.integers(max_value=math.floor(low) - 1) | st.integers(math.ceil(high) + 1)
    if isinstance(low, float):
        outside |= st.floats(max_value=low, exclude_max=True, allow_infinity=False)
        outside |= st.floats(high, exclude_min=True, allow_infinity=False)

    with pytest.raises(BadRequestError) as refused:
        read(shape, SMALLEST[shape] | {field: data.draw(outside)})

    assert refused.value.param == field


@NUMBERS
@pytest.mark.parametrize("value", ["1", True, [1], {"a": 1}])
def test_no_other_type_stands_for_a_number(
    shape: type[Request], field: str, bounds: tuple[float, float], value: Any
) -> None:
    with pytest.raises(BadRequestError) as refused:
        read(shape, SMALLEST[shape] | {field: value})

    assert refused.value.param == field
