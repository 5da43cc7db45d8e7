"""Moderation: what a text is about that may not be welcome.

Source: OpenAI API specification, `CreateModerationRequest` and `CreateModerationResponse`.
"""

from typing import Annotated, Literal

from pydantic import Field

from galley.schemas.base import Reply, Request
from galley.schemas.chat import ImagePart, ModelName, TextPart

MAX_INPUTS = 256

Category = Literal[
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit",
    "illicit/violent", "self-harm", "self-harm/intent", "self-harm/instructions", "sexual",
    "sexual/minors", "violence", "violence/graphic",
]  # fmt: skip

Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(Request):
    """One text, several, or the parts of one message."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[Part], Field(min_length=1, max_length=MAX_INPUTS)]
    ) = Field(description="A text, up to 256 texts, or the parts of one message.")
    model: ModelName = Field(default="omni-moderation-latest", examples=["omni-moderation-latest"])

    @property
    def texts(self) -> list[str]:
        """What is judged, one by one; the texts of parts are one."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [item for item in self.input if isinstance(item, str)]
        return texts or ["\n".join(part.text for part in self.input if isinstance(part, TextPart))]

    @property
    def images(self) -> list[int]:
        """Where among the parts the images are."""
        if isinstance(self.input, str):
            return []
        return [place for place, part in enumerate(self.input) if isinstance(part, ImagePart)]


class ModerationResult(Reply):
    flagged: bool = Field(description="Whether any category is true.")
    categories: dict[Category, bool]
    category_scores: dict[Category, float] = Field(description="From 0 to 1.")
    category_applied_input_types: dict[Category, list[Literal["text", "image"]]]


class ModerationReply(Reply):
    id: str
    model: str
    results: list[ModerationResult]
