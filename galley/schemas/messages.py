"""Anthropic's messages.

Source: Anthropic API reference, Messages (`POST /v1/messages` and `/v1/messages/count_tokens`).
"""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from galley.schemas.base import Inert, Reply, Request, said_as
from galley.schemas.chat import MAX_TOKENS, ModelName, Name, Stop
from galley.schemas.json_schema import JsonSchema

MAX_INPUT = 1_000_000  # characters of a tool call's input, as JSON


def _check_input(found: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(found))
    except orjson.JSONEncodeError as error:
        raise ValueError("it is nested too deeply, or has a number of more than 64 bits") from error
    if size > MAX_INPUT:
        raise ValueError(f"it is larger than {MAX_INPUT} bytes")
    return found


class TextBlock(Request):
    type: Literal["text"]
    text: str
    cache_control: Inert = None
    citations: Inert = None


class ImageSource(Request):
    type: Annotated[
        Literal["base64"],
        Field(description="Addresses are not fetched."),
        said_as(
            "addresses and uploaded files are not fetched, so that nobody can point this server at"
            " others; send the image itself, with the type base64"
        ),
    ]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str = Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")


class ImageBlock(Request):
    type: Literal["image"]
    source: ImageSource
    cache_control: Inert = None
    transformations: Inert = None


class ThinkingBlock(Request):
    """What a model said to itself in an earlier turn; it is not told again."""

    type: Literal["thinking"]
    thinking: Inert
    signature: Inert = None


class RedactedThinkingBlock(Request):
    type: Literal["redacted_thinking"]
    data: Inert


class ToolUseBlock(Request):
    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: Name
    input: Annotated[dict[str, Any], AfterValidator(_check_input)]
    cache_control: Inert = None
    caller: Inert = None
    toolset_name: Inert = None


ResultBlock = Annotated[TextBlock | ImageBlock, Field(discriminator="type")]


class ToolResultBlock(Request):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=256)
    content: str | Annotated[list[ResultBlock], Field(max_length=128)] | None = None
    is_error: bool | None = None
    cache_control: Inert = None
    toolset_name: Inert = None


Block = Annotated[
    TextBlock | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]
_SPEAKERS = {
    "image": "user",
    "tool_result": "user",
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
}


class Turn(Request):
    """One message, `content` as text or in blocks; an assistant's may be empty."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(max_length=128)]
    clear_at: Inert = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.content == [] and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} needs content")
        for block in self.blocks:
            if _SPEAKERS.get(block.type, self.role) != self.role:
                raise ValueError(f"a {block.type} block cannot be in a turn of role {self.role}")
        return self

    @property
    def blocks(self) -> list[Block]:
        """The content in blocks."""
        if isinstance(self.content, str):
            return [TextBlock(type="text", text=self.content)]
        return self.content


class CustomTool(Request):
    type: Literal["custom"] | None = None
    name: Name
    description: str | None = Field(default=None, max_length=16_384)
    input_schema: JsonSchema
    allowed_callers: Inert = None
    cache_control: Inert = None
    defer_loading: Inert = None
    eager_input_streaming: Inert = None
    input_examples: Inert = None
    strict: Inert = None


class ServerTool(Request):
    """A tool of Anthropic's own (web search, bash, ...): nothing here knows it."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64, json_schema_extra={"not": {"const": "custom"}})


def _kind_of_tool(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "CustomTool" if kind in (None, "custom") else "ServerTool"


MessageTool = Annotated[
    Annotated[CustomTool, Tag("CustomTool")] | Annotated[ServerTool, Tag("ServerTool")],
    Discriminator(_kind_of_tool),
]


class ToolChoice(Request):
    """`name` goes with the type `tool`, and with no other."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _names_a_tool(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("name goes with the type 'tool', and with no other")
        return self


class OutputFormat(Request):
    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


class OutputConfig(Request):
    format: OutputFormat | None = None
    effort: Inert = None
    task_budget: Inert = None


class CountTokensRequest(Request):
    """Source: Anthropic API reference, Count tokens in a Message."""

    model: ModelName
    messages: list[Turn] = Field(min_length=1, max_length=2048)
    system: str | Annotated[list[TextBlock], Field(max_length=128)] | None = None
    tools: list[MessageTool] | None = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: Inert = None
    context_management: Inert = None
    speed: Inert = None
    thinking: Inert = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.messages[-1].role == "assistant":
            raise ValueError(
                "the conversation must end with a user message: an answer is a turn of its own,"
                " and does not go on from an assistant's"
            )
        choice, names = self.tool_choice, [tool.name for tool in self.custom_tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if choice is not None and choice.name is not None and choice.name not in names:
            raise ValueError(f"tool_choice names {choice.name!r}, which is not in tools")
        if choice is not None and choice.type == "any" and not names:
            raise ValueError("tool_choice 'any' needs tools")
        return self

    @property
    def ignored(self) -> list[str]:
        tools = enumerate(self.tools or ())
        unknown = [f"tools[{i}]" for i, tool in tools if isinstance(tool, ServerTool)]
        return sorted([*super().ignored, *unknown])

    @property
    def custom_tools(self) -> list[CustomTool]:
        """The tools that the model can call."""
        return [tool for tool in self.tools or () if isinstance(tool, CustomTool)]


class MessagesRequest(CountTokensRequest):
    """Source: Anthropic API reference, Create a Message."""

    max_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Longest answer, in tokens.")
    stream: bool | None = False
    stop_sequences: Stop | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    container: Inert = None
    diagnostics: Inert = None
    inference_geo: Inert = None
    metadata: Inert = None
    service_tier: Inert = None
    thread: dict[str, Any] | None = Field(default=None, description="Not supported; null only.")


class TextReply(Reply):
    type: Literal["text"] = "text"
    text: str


class ThinkingReply(Reply):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = Field(description="Empty: nobody checks it here.")


class ToolUseReply(Reply):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Reply):
    input_tokens: int = Field(description="Without those that were in the cache.")
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class AnthropicMessage(Reply):
    """Source: Anthropic API reference, Message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextReply | ThinkingReply | ToolUseReply]
    stop_reason: str = Field(
        description="end_turn, max_tokens, stop_sequence, tool_use or refusal."
    )
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Reply):
    """Source: Anthropic API reference, MessageTokensCount."""

    input_tokens: int
