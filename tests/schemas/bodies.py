"""Requests as clients write them, valid and otherwise, for hypothesis."""

from collections.abc import Iterator
from typing import Any, get_args

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from galley.schemas.base import Request
from galley.schemas.chat import MAX_TOKENS, ChatRequest, Message, SimpleChatRequest
from galley.schemas.classify import ClassifyBatchRequest, ClassifyRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.embeddings import EmbeddingRequest
from galley.schemas.messages import (
    CountTokensRequest,
    CustomTool,
    ImageBlock,
    MessagesRequest,
    OutputConfig,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from galley.schemas.responses import (
    FunctionTool,
    Includable,
    RankingOptions,
    ResponsesRequest,
    ResponseStreamOptions,
    TextSettings,
)
from galley.schemas.responses_input import (
    FileSearchItem,
    FunctionCallItem,
    FunctionOutputItem,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
)

Body = dict[str, Any]
Path = tuple[str | int, ...]

INT64 = 2**63
_SHAPES = (
    ChatRequest, Message, MessagesRequest, TextBlock, ImageBlock, ThinkingBlock, ToolUseBlock,
    CustomTool, OutputConfig,
    ResponsesRequest, ResponseStreamOptions, TextSettings, FunctionTool, InputText, OutputText,
    MessageItem, FunctionCallItem, FunctionOutputItem, ReasoningItem,
    FileSearchItem, RankingOptions,
)  # fmt: skip
FREE = frozenset({"parameters", "schema", "input_schema", "logit_bias", "metadata"}) | {
    name for shape in _SHAPES for name in shape.inert
}  # fields in which any name is welcome

text = st.text(max_size=30)
some_text = st.text(min_size=1, max_size=30)
name = st.from_regex(r"[a-zA-Z0-9_-]{1,128}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-INT64, INT64 - 1) | text
json_values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def fields(optional: dict[str, SearchStrategy[Any]], **required: SearchStrategy[Any]) -> Any:
    """Objects with all of `required` and any of `optional`, which may also be null."""
    nullable = {key: st.none() | values for key, values in optional.items()}
    return st.fixed_dictionaries(required, optional=nullable)


def joined(*parts: SearchStrategy[Body]) -> SearchStrategy[Body]:
    """Objects with the fields of every part."""
    return st.tuples(*parts).map(lambda found: {k: v for part in found for k, v in part.items()})


_parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": text}),
    st.fixed_dictionaries({"type": st.just("refusal"), "refusal": text}),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries(
                {"url": text.map("data:image/png;base64,{}".format)},
                optional={"detail": st.sampled_from(["auto", "low", "high"])},
            ),
        }
    ),
)
_content = text | st.lists(_parts, min_size=1, max_size=3)
_calls = st.lists(
    st.fixed_dictionaries(
        {"id": text, "function": st.fixed_dictionaries({"name": name, "arguments": text})},
        optional={"type": st.just("function")},
    ),
    min_size=1,
    max_size=2,
)
_messages = st.lists(
    st.one_of(
        fields(
            {"name": text, "annotations": json_values, "audio": json_values},
            role=st.sampled_from(["system", "developer", "user", "assistant"]),
            content=_content,
        ),
        fields({"content": _content}, role=st.just("assistant"), tool_calls=_calls),
        fields({}, role=st.just("assistant"), refusal=text),
        fields({}, role=st.just("tool"), content=_content, tool_call_id=text),
    ),
    min_size=1,
    max_size=4,
)
_schemas = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={"properties": st.dictionaries(name, st.just({"type": "string"}), max_size=3)},
)
_tools = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": fields(
            {"description": text, "parameters": _schemas, "strict": st.booleans()}, name=name
        ),
    }
)
_formats = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries(
                {"name": name}, optional={"schema": _schemas, "strict": st.booleans()}
            ),
        }
    ),
)
_sampling: dict[str, SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, MAX_TOKENS),
    "temperature": st.floats(0, 2) | st.integers(0, 2),
    "top_p": st.floats(0, 1),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(
        st.from_regex(r"[0-9]{1,7}", fullmatch=True), st.floats(-100, 100), max_size=3
    ),
    "seed": st.integers(-INT64, INT64 - 1),
    "stop": some_text | st.lists(some_text, max_size=4),
    "n": st.integers(1, 16),
}
_streaming = st.one_of(
    fields({"stream": st.booleans()}),
    fields({"stream_options": fields({}, include_usage=st.booleans())}, stream=st.just(value=True)),
)
_logprobs = st.one_of(
    fields({"logprobs": st.booleans()}),
    fields({"top_logprobs": st.integers(0, 20)}, logprobs=st.just(value=True)),
)


def _choice_of(tool: Body) -> Body:
    named = {"name": tool["function"]["name"]}
    return {"tools": [tool], "tool_choice": {"type": "function", "function": named}}


_tooling = st.one_of(
    fields({"tool_choice": st.sampled_from(["none", "auto"])}),
    fields(
        {"parallel_tool_calls": st.booleans()},
        tools=st.lists(_tools, min_size=1, max_size=2),
        tool_choice=st.sampled_from(["none", "auto", "required"]),
    ),
    _tools.map(_choice_of),
)
_inert = dict.fromkeys(sorted(ChatRequest.inert - {"modalities"}), json_values)
_tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)
_prompts = st.one_of(
    some_text,
    st.lists(some_text, min_size=1, max_size=4),
    _tokens,
    st.lists(_tokens, min_size=1, max_size=3),
)

_scalars = st.booleans() | st.integers(-(10**6), 10**6) | text
_compares = fields(
    {}, type=st.sampled_from(["eq", "ne", "gte"]), key=some_text, value=_scalars
) | fields({}, type=st.just("in"), key=some_text, value=st.lists(text, max_size=2))
_groups = fields({}, type=st.just("or"), filters=st.lists(_compares, min_size=1, max_size=2))
_filters = _compares | fields(
    {}, type=st.just("and"), filters=st.lists(_compares | _groups, min_size=1, max_size=2)
)
_collections = st.lists(some_text, min_size=1, max_size=2)
_retrieving = st.fixed_dictionaries(
    {},
    optional={
        "collections": _collections,
        "limit": st.integers(1, 50),
        "filters": _filters,
        "min_score": st.floats(0, 1),
    },
)

chats = joined(
    fields(
        _sampling
        | _inert
        | {
            "galley": fields({"retrieve": _retrieving}),
            "max_completion_tokens": st.integers(1, MAX_TOKENS),
            "response_format": _formats,
            "modalities": st.just(["text"]),
        },
        model=some_text,
        messages=_messages,
    ),
    _streaming,
    _logprobs,
    _tooling,
)
simple_chats = fields(
    {"temperature": st.floats(0, 2), "max_tokens": st.integers(1, MAX_TOKENS)}, messages=_messages
)
completions = joined(
    fields(
        _sampling | {"best_of": st.just(1), "suffix": st.none(), "user": json_values},
        model=some_text,
        prompt=_prompts,
    ),
    _streaming,
    st.one_of(
        fields({"logprobs": st.integers(0, 5), "echo": st.just(value=False)}),
        fields({}, echo=st.just(value=True), prompt=some_text),
    ),
)
embeddings = st.fixed_dictionaries(
    {"model": some_text, "input": _prompts},
    optional={
        "encoding_format": st.sampled_from(["float", "base64"]),
        "dimensions": st.none() | st.integers(1, 65_536),
        "truncate": st.booleans(),
        "user": json_values,
    },
)
_marked = {"cache_control": json_values}
_text_blocks = fields(_marked, type=st.just("text"), text=text)
_image_blocks = fields(
    _marked,
    type=st.just("image"),
    source=st.fixed_dictionaries(
        {
            "type": st.just("base64"),
            "media_type": st.sampled_from(["image/png", "image/webp"]),
            "data": st.just("AAAA"),
        }
    ),
)
_result_blocks = fields(
    _marked | {"is_error": st.booleans(), "content": text | st.lists(_text_blocks | _image_blocks)},
    type=st.just("tool_result"),
    tool_use_id=some_text,
)
_answer_blocks = st.one_of(
    _text_blocks,
    fields({"signature": text}, type=st.just("thinking"), thinking=text),
    fields(
        {"caller": json_values},
        type=st.just("tool_use"),
        id=some_text,
        name=name,
        input=st.dictionaries(text, json_values, max_size=3),
    ),
)
_asking = st.fixed_dictionaries(
    {
        "role": st.just("user"),
        "content": text
        | st.lists(_text_blocks | _image_blocks | _result_blocks, min_size=1, max_size=3),
    }
)
_answering = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": text | st.lists(_answer_blocks, max_size=3)}
)
_turns = st.tuples(st.lists(_asking | _answering, max_size=3), _asking).map(
    lambda found: [*found[0], found[1]]
)
_custom_tools = fields(
    {"type": st.just("custom"), "input_examples": json_values},
    name=name,
    input_schema=_schemas,
)
_counted: dict[str, SearchStrategy[Any]] = {
    "system": text | st.lists(_text_blocks, max_size=2),
    "tools": st.lists(_custom_tools, max_size=2, unique_by=lambda tool: tool["name"]),
    "tool_choice": fields(
        {"disable_parallel_tool_use": st.booleans()}, type=st.sampled_from(["auto", "none"])
    ),
    "output_config": fields(
        {
            "format": st.fixed_dictionaries({"type": st.just("json_schema"), "schema": _schemas}),
            "effort": json_values,
        }
    ),
}
counts = fields(
    _counted | dict.fromkeys(sorted(CountTokensRequest.inert), json_values),
    model=some_text,
    messages=_turns,
)
messages = fields(
    _counted
    | dict.fromkeys(sorted(MessagesRequest.inert), json_values)
    | {
        "stream": st.booleans(),
        "stop_sequences": st.lists(some_text, max_size=4),
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(0, MAX_TOKENS),
    },
    model=some_text,
    messages=_turns,
    max_tokens=st.integers(1, MAX_TOKENS),
)


def _any_of(shape: type[Request]) -> dict[str, SearchStrategy[Any]]:
    """All of `shape`'s fields that mean nothing here, with anything in them."""
    return dict.fromkeys(sorted(shape.inert - {"strict", "summary"}), json_values)


_input_parts = st.one_of(
    fields(_any_of(InputText), type=st.just("input_text"), text=text),
    st.fixed_dictionaries(
        {
            "type": st.just("input_image"),
            "image_url": text.map("data:image/png;base64,{}".format),
        },
        optional={"detail": st.sampled_from(["auto", "original"]), "file_id": st.none()},
    ),
)
_output_parts = st.one_of(
    fields(_any_of(OutputText), type=st.just("output_text"), text=text),
    fields({}, type=st.just("refusal"), refusal=text),
)
_items = st.one_of(
    fields(
        _any_of(MessageItem) | {"id": some_text},
        role=st.sampled_from(["user", "system", "developer"]),
        content=some_text | st.lists(_input_parts, min_size=1, max_size=3),
    ),
    fields(
        _any_of(MessageItem),
        type=st.just("message"),
        role=st.just("assistant"),
        content=text | st.lists(_output_parts, max_size=3),
    ),
    fields(
        _any_of(FunctionCallItem) | {"id": some_text},
        type=st.just("function_call"),
        call_id=some_text,
        name=name,
        arguments=text,
    ),
    fields(
        _any_of(FunctionOutputItem),
        type=st.just("function_call_output"),
        call_id=some_text,
        output=text | st.lists(_input_parts, max_size=2),
    ),
    fields(_any_of(ReasoningItem), type=st.just("reasoning"), summary=json_values),
    fields(_any_of(FileSearchItem), type=st.just("file_search_call")),
    fields({}, type=st.just("item_reference"), id=some_text),
)
_flat_tools = fields(
    _any_of(FunctionTool) | {"description": text, "parameters": _schemas, "strict": st.booleans()},
    type=st.just("function"),
    name=name,
)
_searches = fields(
    {
        "max_num_results": st.integers(1, 50),
        "filters": _filters,
        "ranking_options": fields(_any_of(RankingOptions) | {"score_threshold": st.floats(0, 1)}),
    },
    type=st.just("file_search"),
    vector_store_ids=_collections,
)
_flat_formats = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    fields(
        {"description": text, "strict": st.booleans()},
        type=st.just("json_schema"),
        name=name,
        schema=_schemas,
    ),
)
responses = fields(
    _any_of(ResponsesRequest)
    | {
        "instructions": text,
        "stream": st.booleans(),
        "stream_options": fields(_any_of(ResponseStreamOptions)),
        "store": st.booleans(),
        "previous_response_id": text,
        "max_output_tokens": st.integers(1, MAX_TOKENS),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_logprobs": st.integers(0, 20),
        "include": st.lists(st.sampled_from(get_args(Includable)), max_size=3),
        "text": fields(_any_of(TextSettings) | {"format": _flat_formats}),
        "tools": st.tuples(st.lists(_flat_tools, max_size=2), st.lists(_searches, max_size=1)).map(
            lambda both: [*both[0], *both[1]]
        ),
        "tool_choice": st.sampled_from(["none", "auto"]),
        "parallel_tool_calls": st.booleans(),
        "metadata": st.dictionaries(text, text, max_size=3),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "background": st.just(value=False),
        "prompt": st.none(),
    },
    model=some_text,
    input=some_text | st.lists(_items, min_size=1, max_size=4),
)
pictures = fields({"filename": text}, image=some_text)
batches = st.fixed_dictionaries(
    {"images": st.lists(pictures, min_size=1, max_size=32)},
    optional={
        "model": st.none() | some_text,
        "top_k": st.integers(1, 1000),
        "threshold": st.floats(0, 1),
    },
)

VALID: dict[type[Request], SearchStrategy[Body]] = {
    ChatRequest: chats,
    SimpleChatRequest: simple_chats,
    CompletionRequest: completions,
    MessagesRequest: messages,
    ResponsesRequest: responses,
    CountTokensRequest: counts,
    EmbeddingRequest: embeddings,
    ClassifyRequest: pictures,
    ClassifyBatchRequest: batches,
}


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value in `value` with the way to it, less what is in fields that take anything."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in FREE and not (key == "input" and isinstance(inner, dict)):  # a tool's
                yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def changed(body: Any, path: Path, value: Any) -> Any:
    """`body` with `value` at `path`."""
    if not path:
        return value
    here, *further = path
    if isinstance(here, int):
        return [*body[:here], changed(body[here], tuple(further), value), *body[here + 1 :]]
    return body | {here: changed(body.get(here), tuple(further), value)}


def spelled(path: Path) -> str:
    """`path` as OpenAI writes it: `messages[0].content`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")
