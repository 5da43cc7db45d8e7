"""Tools for a model on another server that knows none."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

from galley.engines import tool_prompt
from galley.engines.base import ChatEngine
from galley.schemas.chat import ChatRequest, JsonSchemaFormat, Message, NamedSchema
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta


class PromptedTools:
    """An engine that is never shown tools: they are written into the prompt.

    A call that is forced is forced by a JSON schema, which the other server must know.
    """

    def __init__(self, engine: ChatEngine) -> None:
        self._engine = engine
        self.slots = engine.slots
        self.hardware = engine.hardware

    @property
    def problem(self) -> str | None:
        return self._engine.problem

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        return await self._engine.check(_written_out(request))

    async def count(self, request: ChatRequest) -> int:
        return await self._engine.count(with_prompt(request))

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        asked = _written_out(request)
        answer = self._engine.stream(asked, choice=choice, cache_salt=cache_salt)
        if isinstance(request, ChatRequest) and (tools := tool_prompt.offered(request)):
            answer = tool_prompt.read_calls(answer, tools, f"call_{uuid4().hex}")
        async with aclosing(answer):
            async for pieces in answer:
                yield pieces

    async def aclose(self) -> None:
        await self._engine.aclose()


def _written_out(request: ChatRequest | CompletionRequest) -> ChatRequest | CompletionRequest:
    return with_prompt(request) if isinstance(request, ChatRequest) else request


def with_prompt(request: ChatRequest) -> ChatRequest:
    """Write a request's tools into its prompt, and force a call that is forced by a schema."""
    turns = tool_prompt.plain_messages(request)
    change: dict[str, object] = {"messages": [Message.model_validate(turn) for turn in turns]}
    change |= dict.fromkeys(("tools", "tool_choice", "parallel_tool_calls"))
    tools = tool_prompt.offered(request)
    if tools and tool_prompt.is_forced(request):
        # Made of schemas that were let in already: theirs may be as deep as one may be.
        schema = NamedSchema.model_construct(name="call", schema_=tool_prompt.call_schema(tools))
        change["response_format"] = JsonSchemaFormat.model_construct(
            type="json_schema", json_schema=schema
        )
    return request.model_copy(update=change)
