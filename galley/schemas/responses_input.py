"""What a response may be asked with: messages, calls, their outputs.

Source: OpenAI API specification, `InputItem`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from galley.schemas.base import Inert, Request
from galley.schemas.chat import DataUrl, Name

Id = Annotated[str, Field(min_length=1, max_length=256)]


class InputText(Request):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Inert = None


class InputImage(Request):
    type: Literal["input_image"]
    image_url: DataUrl
    detail: Literal["auto", "low", "high", "original"] = "auto"
    file_id: None = Field(default=None, description="Not supported; null only.")
    prompt_cache_breakpoint: Inert = None


class OutputText(Request):
    """What was answered in an earlier turn, as the answer or an SDK's own copy has it."""

    type: Literal["output_text"]
    text: str
    annotations: Inert = None
    logprobs: Inert = None
    parsed: Inert = None


class OutputRefusal(Request):
    type: Literal["refusal"]
    refusal: str


InputPart = Annotated[InputText | InputImage, Field(discriminator="type")]
Part = Annotated[InputText | InputImage | OutputText | OutputRefusal, Field(discriminator="type")]


class MessageItem(Request):
    """One message; an assistant's may be empty."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Field(max_length=256)]
    id: Id | None = None
    phase: Inert = None
    status: Inert = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        answers = self.role == "assistant"
        if not self.content and not answers:
            raise ValueError(f"a message of role {self.role} needs content")
        for part in self.content if isinstance(self.content, list) else ():
            if isinstance(part, OutputText | OutputRefusal) != answers:
                raise ValueError(f"{part.type} cannot be in a message of role {self.role}")
        return self


class FunctionCallItem(Request):
    type: Literal["function_call"]
    call_id: Id
    name: Name
    arguments: str = Field(max_length=1_000_000)
    id: Id | None = None
    caller: Inert = None
    namespace: Inert = None
    parsed_arguments: Inert = None
    status: Inert = None


class FunctionOutputItem(Request):
    type: Literal["function_call_output"]
    call_id: Id
    output: str | Annotated[list[InputPart], Field(max_length=256)]
    id: Id | None = None
    caller: Inert = None
    name: Inert = None
    namespace: Inert = None
    status: Inert = None


class ReasoningItem(Request):
    """What a model said to itself in an earlier turn; it is not told again."""

    type: Literal["reasoning"]
    summary: Inert
    id: Id | None = None
    content: Inert = None
    encrypted_content: Inert = None
    status: Inert = None


class FileSearchItem(Request):
    """A search for an earlier turn; what it found is not told again."""

    type: Literal["file_search_call"]
    queries: Inert = None
    id: Id | None = None
    results: Inert = None
    status: Inert = None


class ItemReference(Request):
    """An item of an earlier response's output, by its id."""

    type: Literal["item_reference"]
    id: Id


_ITEMS = {
    "message": "MessageItem",
    "function_call": "FunctionCallItem",
    "function_call_output": "FunctionOutputItem",
    "reasoning": "ReasoningItem",
    "file_search_call": "FileSearchItem",
    "item_reference": "ItemReference",
}


def type_of(part: Any) -> Any:
    """Return the `type` of what is read, or was."""
    return part.get("type") if isinstance(part, dict) else getattr(part, "type", None)


def _kind_of_item(item: Any) -> str:
    return _ITEMS.get(str(type_of(item) or "message"), "unknown")


SilentItem = ReasoningItem | FileSearchItem
"""What the model is not told of an earlier turn."""

SaidItem = MessageItem | FunctionCallItem | FunctionOutputItem | SilentItem
Item = Annotated[
    Annotated[MessageItem, Tag("MessageItem")]
    | Annotated[FunctionCallItem, Tag("FunctionCallItem")]
    | Annotated[FunctionOutputItem, Tag("FunctionOutputItem")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[FileSearchItem, Tag("FileSearchItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(
        _kind_of_item,
        custom_error_type="unknown_item",
        custom_error_message=f"its type should be one of {', '.join(_ITEMS)}",
    ),
]
