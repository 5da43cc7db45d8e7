"""OpenAI's chat completions, which are also Galley's mother tongue.

Source: OpenAI API specification, `CreateChatCompletionRequest` and
`CreateChatCompletionResponse`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from galley.schemas.base import Inert, Reply, Request, said_as
from galley.schemas.grounding import GalleyOptions, Grounding
from galley.schemas.json_schema import JsonSchema

MAX_TOKENS = 1_048_576
SIMPLE_MAX_TOKENS = 512

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
"""Anthropic's may have 128 characters, OpenAI's 64."""
ModelName = Annotated[
    str, Field(min_length=1, max_length=256, examples=["galley/chat"], description="Model name.")
]
LogitBias = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^\d{1,7}$", description="Token id.")],
        Annotated[float, Field(ge=-100, le=100)],
    ],
    Field(max_length=1024),
]
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)]
DataUrl = Annotated[
    str,
    Field(
        pattern=r"^data:image/[a-zA-Z0-9.+-]+;base64,",
        description="`data:image/...;base64,...`; addresses are not fetched.",
    ),
    said_as(
        "addresses are not fetched, so that nobody can point this server at others; send the"
        " image itself, as data:image/...;base64,..."
    ),
]


class TextPart(Request):
    type: Literal["text"]
    text: str
    cache_control: Inert = None


class RefusalPart(Request):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(Request):
    url: DataUrl
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Request):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]
Content = str | Annotated[list[ContentPart], Field(max_length=256)]


class FunctionCall(Request):
    name: Name
    arguments: str = Field(max_length=1_000_000)
    parsed_arguments: Inert = None


class MessageToolCall(Request):
    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Inert = None


class Message(Request):
    """One turn. `tool` turns answer the call named by `tool_call_id`.

    An assistant's turn may be empty, and have whatever an answer, or an SDK's own copy of one, has.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = Field(default=None, max_length=256)
    tool_calls: list[MessageToolCall] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = Field(default=None, max_length=256)
    refusal: str | None = None
    audio: Inert = None
    annotations: Inert = None
    parsed: Inert = None
    reasoning: Inert = None
    reasoning_content: Inert = None
    function_call: None = Field(
        default=None, exclude=True, description="Older than tool_calls; null only."
    )

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content in (None, []) and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} needs content")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool message needs tool_call_id")
        return self

    @property
    def images(self) -> list[ImagePart]:
        """The images among its parts."""
        if self.content is None or isinstance(self.content, str):
            return []
        return [part for part in self.content if isinstance(part, ImagePart)]

    @property
    def text(self) -> str:
        """The text of all parts, joined."""
        if self.content is None or isinstance(self.content, str):
            return self.content or self.refusal or ""
        return "\n".join(
            part.text if isinstance(part, TextPart) else part.refusal
            for part in self.content
            if not isinstance(part, ImagePart)
        )


class Function(Request):
    name: Name
    description: str | None = Field(default=None, max_length=16_384)
    parameters: JsonSchema | None = None
    strict: bool | None = Field(default=None, exclude=True)


class Tool(Request):
    type: Literal["function"]
    function: Function


class UnknownTool(Request):
    """A tool that someone else's server would run: nothing here calls it."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64, json_schema_extra={"not": {"const": "function"}})


def _kind_of_tool(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "Tool" if kind == "function" else "UnknownTool"


AnyTool = Annotated[
    Annotated[Tool, Tag("Tool")] | Annotated[UnknownTool, Tag("UnknownTool")],
    Discriminator(_kind_of_tool),
]


class NamedFunction(Request):
    name: Name


class NamedTool(Request):
    type: Literal["function"]
    function: NamedFunction


class TextFormat(Request):
    type: Literal["text"]


class JsonObjectFormat(Request):
    type: Literal["json_object"]


def _empty_if_null(schema: Any) -> Any:
    return {} if schema is None else schema


class NamedSchema(Request):
    name: Name
    description: str | None = Field(default=None, max_length=16_384)
    schema_: Annotated[
        JsonSchema, BeforeValidator(_empty_if_null, json_schema_input_type=JsonSchema | None)
    ] = Field(default_factory=dict[str, Any], alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Request):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class StreamOptions(Request):
    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(default=None, exclude=True)


class ChatRequest(Request):
    """Source: OpenAI API specification, CreateChatCompletionRequest."""

    model: ModelName
    messages: list[Message] = Field(min_length=1, max_length=2048)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKENS,
        description="Longest answer, in tokens. Unset: what fits.",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="The older name of max_completion_tokens."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(
        default=None, ge=0, le=MAX_TOKENS, description="Not OpenAI's own; for servers that know it."
    )
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: LogitBias | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[str, Field(min_length=1, max_length=256)] | Stop | None = None
    n: int | None = Field(default=None, ge=1, le=16, description="How many answers.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[AnyTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    galley: GalleyOptions | None = Field(
        default=None, description="Not OpenAI's own: answers from documents."
    )
    metadata: Inert = None
    modalities: list[Literal["text"]] | None = Field(default=None, max_length=4, exclude=True)
    prediction: Inert = None
    prompt_cache_key: Inert = None
    prompt_cache_retention: Inert = None
    reasoning_effort: Inert = None
    safety_identifier: Inert = None
    service_tier: Inert = None
    store: Inert = None
    user: Inert = None
    verbosity: Inert = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if isinstance(self.tool_choice, NamedTool):
            wanted = self.tool_choice.function.name
            if wanted not in {tool.function.name for tool in self.functions}:
                raise ValueError(f"tool_choice names {wanted!r}, which is not in tools")
        elif self.tool_choice == "required" and not self.functions:
            raise ValueError("tool_choice 'required' needs tools")
        return self

    @property
    def ignored(self) -> list[str]:
        tools = enumerate(self.tools or ())
        unknown = [f"tools[{i}]" for i, tool in tools if isinstance(tool, UnknownTool)]
        return sorted([*super().ignored, *unknown])

    @property
    def functions(self) -> list[Tool]:
        """The tools that the model can call."""
        return [tool for tool in self.tools or () if isinstance(tool, Tool)]

    @property
    def limit(self) -> int | None:
        """The longest answer asked for, in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def choices(self) -> int:
        """How many answers were asked for."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """The stop sequences as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class SimpleChatRequest(Request):
    """The simple chat: `{"messages": [...]}` and, where wanted, the usual knobs."""

    messages: list[Message] = Field(min_length=1, max_length=2048)
    model: ModelName = "galley/chat"
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(
        default=None, ge=1, le=MAX_TOKENS, description="Longest answer, in tokens. Unset: 512."
    )

    def as_chat(self, *, stream: bool) -> ChatRequest:
        """The same conversation on the main road."""
        return ChatRequest(
            model=self.model,
            messages=self.messages,
            temperature=self.temperature,
            max_tokens=self.max_tokens or SIMPLE_MAX_TOKENS,
            stream=stream,
        )


class SimpleChatReply(Reply):
    response: str


class TokenDetails(Reply):
    cached_tokens: int = 0


class UsageReply(Reply):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: TokenDetails | None = None


class FunctionReply(Reply):
    name: str | None = None
    arguments: str = ""


class ToolCallReply(Reply):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionReply


class MessageReply(Reply):
    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallReply] | None = None


class Choice(Reply):
    index: int
    message: MessageReply
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Reply):
    """Source: OpenAI API specification, CreateChatCompletionResponse."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    galley: Grounding | None = Field(default=None, description="Where documents were asked.")


class ChunkChoice(Reply):
    index: int
    delta: MessageReply
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class ChatCompletionChunk(Reply):
    """Source: OpenAI API specification, CreateChatCompletionStreamResponse."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageReply | None = None
    galley: Grounding | None = Field(
        default=None, description="In the first chunk, where documents were asked."
    )
