"""Image classification: version 1 takes one picture, version 2 up to 32."""

from typing import Annotated

from pydantic import Field

from galley.schemas.base import Reply, Request
from galley.schemas.chat import ModelName

MAX_IMAGES = 32

ImageText = Annotated[
    str, Field(min_length=1, description="Base64, or `data:image/...;base64,...`.")
]


class ClassifyRequest(Request):
    """One picture; the answer is its five likeliest labels."""

    image: ImageText
    filename: str | None = Field(default=None, max_length=1024)


class ImageInput(Request):
    image: ImageText
    filename: str | None = Field(default=None, max_length=1024)


class ClassifyBatchRequest(Request):
    """Up to 32 pictures."""

    images: list[ImageInput] = Field(min_length=1, max_length=MAX_IMAGES)
    model: ModelName | None = Field(default=None, examples=["galley/classify"])
    top_k: int = Field(default=5, ge=1, le=1000, description="Labels per picture, best first.")
    threshold: float = Field(default=0.0, ge=0, le=1, description="Leave out labels less likely.")


class Prediction(Reply):
    label: str
    confidence: float


class ClassifyReply(Reply):
    predictions: list[Prediction]
    model: str


class IndexedPrediction(Reply):
    label: str
    class_id: int
    confidence: float


class ImageResult(Reply):
    index: int
    filename: str | None = None
    width: int | None = None
    height: int | None = None
    predictions: list[IndexedPrediction]
    error: str | None = None


class Timings(Reply):
    """Milliseconds; of several pictures the longest of each, as they run side by side."""

    decode: float
    queue: float
    inference: float
    total: float


class ClassifyBatchReply(Reply):
    model: str
    results: list[ImageResult]
    timings_ms: Timings
    request_id: str


class ModelInfo(Reply):
    name: str
    status: str = Field(description="`loaded` or `not_loaded`.")
    num_labels: int
