"""From OpenAI's Responses to the one kind of conversation that engines know."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pydantic import TypeAdapter, ValidationError

from galley.core.errors import BadRequestError
from galley.dialects.prompts import join_prompts
from galley.schemas.chat import (
    ChatRequest,
    Content,
    ContentPart,
    Function,
    FunctionCall,
    ImagePart,
    ImageUrl,
    JsonSchemaFormat,
    Message,
    MessageToolCall,
    NamedFunction,
    NamedSchema,
    NamedTool,
    ResponseFormat,
    TextPart,
    Tool,
)
from galley.schemas.grounding import GalleyOptions, Retrieve
from galley.schemas.responses import (
    FileSearchChoice,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
    SchemaFormat,
)
from galley.schemas.responses_input import (
    FunctionCallItem,
    FunctionOutputItem,
    InputImage,
    InputText,
    Item,
    MessageItem,
    OutputRefusal,
    OutputText,
    Part,
    SaidItem,
    SilentItem,
)

_READ: TypeAdapter[list[Any]] = TypeAdapter(list[Item])
_USUAL_RESULTS = 10
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def chat_request(request: ResponsesRequest, items: Sequence[SaidItem]) -> ChatRequest:
    """Say `request` in the mother tongue.

    Args:
        items: its input, after what it goes on from.
    Raises:
        BadRequestError: there is nothing to answer, or more than a conversation may have.
    """
    try:
        return ChatRequest(
            model=request.model,
            messages=[*join_prompts([*_instructions(request), *_messages(items)])],
            stream=request.stream,
            max_completion_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            logprobs=request.logprobs or None,
            top_logprobs=request.top_logprobs if request.logprobs else None,
            response_format=_format(request),
            tools=[_tool(tool) for tool in request.functions] or None,
            tool_choice=_choice(request),
            parallel_tool_calls=request.parallel_tool_calls,
            galley=_options(request),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise BadRequestError(
            f"input: {fault['msg']}, with all that it goes on from",
            code="invalid_request",
            param="input",
        ) from None


def read_items(written: list[dict[str, Any]]) -> list[SaidItem]:
    """Read items as they are written: those of an input, or of an output.

    Raises:
        BadRequestError: a model wrote one that no request could have.
    """
    try:
        return _READ.validate_python(written)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise BadRequestError(
            f"An earlier response has an item that no model can be told: {fault['msg']}",
            code="invalid_request",
            param="input",
        ) from None


def write_items(items: Sequence[SaidItem], response: str) -> list[dict[str, Any]]:
    """Write items as they are kept and shown; what a model said to itself is left out.

    Args:
        response: the hex of the response's id, from which items that have no id get theirs.
    """
    said = [item for item in items if not isinstance(item, SilentItem)]
    return [
        {"id": item.id or f"{_PREFIXES[item.type]}_{response}_i{number}"} | _written(item)
        for number, item in enumerate(said)
    ]


def _written(
    item: MessageItem | FunctionCallItem | FunctionOutputItem,
) -> dict[str, Any]:
    head = {"type": item.type, "status": "completed"}
    if isinstance(item, FunctionCallItem):
        called = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return head | called
    if isinstance(item, FunctionOutputItem):
        output = item.output
        shown = output if isinstance(output, str) else [_written_part(part) for part in output]
        return head | {"call_id": item.call_id, "output": shown}
    content = item.content
    if isinstance(content, str):
        answers = item.role == "assistant"
        kind = OutputText(type="output_text", text=content) if answers else None
        content = [kind or InputText(type="input_text", text=content)]
    return head | {"role": item.role, "content": [_written_part(part) for part in content]}


def _written_part(part: Part) -> dict[str, Any]:
    if isinstance(part, InputImage):
        return {"type": part.type, "detail": part.detail, "image_url": part.image_url}
    if isinstance(part, OutputRefusal):
        return {"type": part.type, "refusal": part.refusal}
    more = {"annotations": [], "logprobs": []} if isinstance(part, OutputText) else {}
    return {"type": part.type, "text": part.text, **more}


def _instructions(request: ResponsesRequest) -> Iterator[Message]:
    if request.instructions:
        yield Message(role="system", content=request.instructions)


def _messages(items: Sequence[SaidItem]) -> Iterator[Message]:
    """Words and calls of an assistant that follow each other are one message."""
    told = [item for item in items if not isinstance(item, SilentItem)]
    for answered, group in groupby(told, key=_is_answer):
        if answered:
            yield _answer(list(group))
            continue
        for item in group:
            if isinstance(item, FunctionOutputItem):
                content = _content(item.output)
                yield Message(role="tool", tool_call_id=item.call_id, content=content)
            elif isinstance(item, MessageItem):
                yield Message(role=item.role, content=_content(item.content))


def _is_answer(item: SaidItem) -> bool:
    return isinstance(item, FunctionCallItem) or (
        isinstance(item, MessageItem) and item.role == "assistant"
    )


def _answer(items: Sequence[SaidItem]) -> Message:
    texts = [_text(item.content) for item in items if isinstance(item, MessageItem)]
    calls = [
        MessageToolCall(
            id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments)
        )
        for item in items
        if isinstance(item, FunctionCallItem)
    ]
    text = "\n".join(text for text in texts if text)
    return Message(role="assistant", content=text or None, tool_calls=calls or None)


def _text(content: str | Sequence[Part]) -> str:
    if isinstance(content, str):
        return content
    said = [part.refusal if isinstance(part, OutputRefusal) else _words(part) for part in content]
    return "\n".join(said)


def _words(part: InputText | InputImage | OutputText) -> str:
    return "" if isinstance(part, InputImage) else part.text


def _content(content: str | Sequence[Part]) -> Content:
    """Write what was said as plain text where it is that, for servers that take nothing else."""
    if isinstance(content, str) or not any(isinstance(part, InputImage) for part in content):
        return _text(content)
    return [_part(part) for part in content]


def _part(part: Part) -> ContentPart:
    if not isinstance(part, InputImage):
        return TextPart(type="text", text=_text([part]))
    detail = "high" if part.detail == "original" else part.detail
    return ImagePart(type="image_url", image_url=ImageUrl(url=part.image_url, detail=detail))


def _tool(tool: FunctionTool) -> Tool:
    function = Function(name=tool.name, description=tool.description, parameters=tool.parameters)
    return Tool(type="function", function=function)


def _options(request: ResponsesRequest) -> GalleyOptions | None:
    tool = request.file_search
    if tool is None:
        return None
    ranking = tool.ranking_options
    retrieve = Retrieve(
        collections=tool.vector_store_ids,
        limit=tool.max_num_results or _USUAL_RESULTS,
        filters=tool.filters,
        min_score=(ranking and ranking.score_threshold) or 0.0,
    )
    return GalleyOptions(retrieve=retrieve)


def _choice(request: ResponsesRequest) -> Any:
    choice = request.tool_choice
    if isinstance(choice, FileSearchChoice) or not request.functions:
        return None  # the search is done, and the model has no other tool that it could choose
    if isinstance(choice, FunctionChoice):
        return NamedTool(type="function", function=NamedFunction(name=choice.name))
    return choice


def _format(request: ResponsesRequest) -> ResponseFormat | None:
    wanted = request.text.format if request.text else None
    if not isinstance(wanted, SchemaFormat):
        return wanted
    named = NamedSchema(
        name=wanted.name,
        description=wanted.description,
        schema=wanted.schema_,
        strict=wanted.strict,
    )
    return JsonSchemaFormat(type="json_schema", json_schema=named)
