"""OpenAI's Responses.

Source: OpenAI API specification, `CreateResponse`, `Response` and `ResponseItemList`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from galley.schemas.base import Inert, Reply, Request
from galley.schemas.chat import (
    MAX_TOKENS,
    JsonObjectFormat,
    ModelName,
    Name,
    TextFormat,
    UnknownTool,
)
from galley.schemas.grounding import MAX_PASSAGES, CollectionNames, MetadataFilter
from galley.schemas.json_schema import JsonSchema
from galley.schemas.responses_input import Item, ItemReference, MessageItem, SaidItem, type_of

LOGPROBS = "message.output_text.logprobs"
SEARCH_RESULTS = "file_search_call.results"

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class FunctionTool(Request):
    type: Literal["function"]
    name: Name
    description: str | None = Field(default=None, max_length=16_384)
    parameters: JsonSchema | None = None
    allowed_callers: Inert = None
    defer_loading: Inert = None
    output_schema: Inert = None
    strict: bool | None = Field(default=None, exclude=True)


class RankingOptions(Request):
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Leave out what has a lower score."
    )
    ranker: Inert = None
    hybrid_search: Inert = None


class FileSearchTool(Request):
    """Documents are searched before the model answers; it does not choose to."""

    type: Literal["file_search"]
    vector_store_ids: CollectionNames = Field(description="Collections, by id or name.")
    max_num_results: int | None = Field(default=None, ge=1, le=MAX_PASSAGES)
    filters: MetadataFilter | None = None
    ranking_options: RankingOptions | None = None


_TOOLS = {"function": "FunctionTool", "file_search": "FileSearchTool"}


def _kind_of_tool(tool: Any) -> str:
    return _TOOLS.get(str(type_of(tool)), "UnknownTool")


ResponseTool = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")]
    | Annotated[FileSearchTool, Tag("FileSearchTool")]
    | Annotated[UnknownTool, Tag("UnknownTool")],
    Discriminator(_kind_of_tool),
]


class FunctionChoice(Request):
    type: Literal["function"]
    name: Name


class FileSearchChoice(Request):
    type: Literal["file_search"]


class SchemaFormat(Request):
    type: Literal["json_schema"]
    name: Name
    description: str | None = Field(default=None, max_length=16_384)
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


_FORMATS = {"text": "TextFormat", "json_object": "JsonObjectFormat", "json_schema": "SchemaFormat"}


def _kind_of_format(wanted: Any) -> str:
    return _FORMATS.get(str(type_of(wanted)), "unknown")


class TextSettings(Request):
    format: (
        Annotated[
            Annotated[TextFormat, Tag("TextFormat")]
            | Annotated[JsonObjectFormat, Tag("JsonObjectFormat")]
            | Annotated[SchemaFormat, Tag("SchemaFormat")],
            Discriminator(
                _kind_of_format,
                custom_error_type="unknown_format",
                custom_error_message=f"its type should be one of {', '.join(_FORMATS)}",
            ),
        ]
        | None
    ) = None
    verbosity: Inert = None


class ResponseStreamOptions(Request):
    include_obfuscation: Inert = None


class ResponsesRequest(Request):
    """Source: OpenAI API specification, CreateResponse."""

    model: ModelName
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Item], Field(min_length=1, max_length=2048)]
    )
    instructions: str | None = None
    stream: bool | None = False
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = Field(default=True, description="Keep it, to go on from and to look up.")
    previous_response_id: str | None = Field(
        default=None, max_length=256, description="One of your own, to go on from."
    )
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKENS,
        description="Longest answer, in tokens. Unset: what fits.",
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[Includable] | None = Field(default=None, max_length=16)
    text: TextSettings | None = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | FileSearchChoice | None = (
        None
    )
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="Nothing is left out of an input that is too long: it is a 400."
    )
    background: Literal[False] | None = Field(default=None, description="Not supported.")
    conversation: None = Field(default=None, description="Not supported; null only.")
    moderation: None = Field(default=None, description="Not supported; null only.")
    prompt: None = Field(default=None, description="Not supported; null only.")
    access_programs: Inert = None
    client_metadata: Inert = None  # Codex's
    context_management: Inert = None
    image: Inert = None
    max_tool_calls: Inert = None
    prompt_cache_key: Inert = None
    prompt_cache_options: Inert = None
    prompt_cache_retention: Inert = None
    reasoning: Inert = None
    safety_identifier: Inert = None
    service_tier: Inert = None
    user: Inert = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = {tool.name for tool in self.functions}
        if isinstance(self.tool_choice, FunctionChoice) and self.tool_choice.name not in names:
            wanted = self.tool_choice.name
            raise ValueError(f"tool_choice names {wanted!r}, which is not in tools")
        searches = [tool for tool in self.tools or () if isinstance(tool, FileSearchTool)]
        if self.tool_choice == "required" and not (names or searches):
            raise ValueError("tool_choice 'required' needs tools")
        if isinstance(self.tool_choice, FileSearchChoice) and not searches:
            raise ValueError("tool_choice names file_search, which is not in tools")
        if len(searches) > 1:
            raise ValueError("tools has file_search more than once; name all collections in one")
        return self

    @property
    def ignored(self) -> list[str]:
        known = {LOGPROBS, SEARCH_RESULTS} if self.file_search else {LOGPROBS}
        more = {f"include[{i}]" for i, what in enumerate(self.include or ()) if what not in known}
        tools = enumerate(self.tools or ())
        more |= {f"tools[{i}]" for i, tool in tools if isinstance(tool, UnknownTool)}
        if self.truncation == "auto":
            more.add("truncation")
        return sorted({*super().ignored, *more})

    @property
    def functions(self) -> list[FunctionTool]:
        """The tools that the model can call."""
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    @property
    def file_search(self) -> FileSearchTool | None:
        """The search for documents that is asked for."""
        if self.tool_choice == "none":
            return None
        return next((tool for tool in self.tools or () if isinstance(tool, FileSearchTool)), None)

    @property
    def items(self) -> "list[SaidItem | ItemReference]":
        """The input in items."""
        if isinstance(self.input, str):
            return [MessageItem(role="user", content=self.input)]
        return [*self.input]

    @property
    def logprobs(self) -> bool:
        """Whether the probabilities of tokens are asked for."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


class OutputItemReply(Reply):
    """A message, a function call, a search of documents, or what the model said to itself."""

    type: Literal["message", "function_call", "file_search_call", "reasoning"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]


class ResponseUsageReply(Reply):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseReply(Reply):
    """Source: OpenAI API specification, Response."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputItemReply]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    previous_response_id: str | None
    usage: ResponseUsageReply | None


class DeletedResponse(Reply):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemReply(Reply):
    """A message, a function call or its output."""

    type: Literal["message", "function_call", "function_call_output"]
    id: str


class InputItemList(Reply):
    """Source: OpenAI API specification, ResponseItemList."""

    object: Literal["list"] = "list"
    data: list[InputItemReply]
    first_id: str | None
    last_id: str | None
    has_more: bool
