"""The receipt of a request, and what its user says of the answer."""

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from galley.schemas.base import Reply, Request
from galley.schemas.grounding import RetrievalReceipt
from galley.schemas.money import PriceReply
from galley.schemas.usage import RequestReply

Subject = Literal["user", "key", "model"]

SCORES = {"up": 1.0, "down": -1.0}


class LimitConsulted(Reply):
    """One limit, as it stood when the request came."""

    subject: Subject = Field(description="What it counts for.")
    model: str | None = Field(description="Which model, where it counts for one.")
    metric: str = Field(description="requests, tokens, images, texts, cost or concurrency.")
    period: str = Field(
        description="minute, day or month; now: at the same time; ever: prepaid credit."
    )
    limit: int
    reserved: int = Field(description="The most that the request might have taken of it.")
    remaining: int = Field(description="What was left then; without what was reserved, if it was.")
    refused: bool = Field(description="It was in the way.")


class AttemptReply(Reply):
    """One try, of at most three."""

    model: str
    replica: int = Field(description="Which of the model's servers, from 0.")
    breaker: Literal["closed", "open", "half_open"] = Field(description="How it stood before.")
    outcome: str = Field(description="ok, cancelled, or an error's code.")
    ms: float


class Timings(Reply):
    """Where the time went, in milliseconds; null where it did not come so far."""

    admitted_ms: float | None = Field(description="Until it was read and its limits were asked.")
    queued_ms: float | None = Field(description="Waiting for a slot of the model.")
    first_token_ms: float | None = Field(description="Until the first piece, from the beginning.")
    total_ms: float | None


class QueueReply(Reply):
    """Its wait for a slot of the model."""

    position: int = Field(description="Its place when it came; 1 is the next.")
    of: int = Field(description="How many waited then, itself among them.")
    behind: int | None = Field(
        description="How many were served before it; null: it left before its turn."
    )


class FilterReply(Reply):
    """What a filter rule of the tier found; what it was is kept nowhere."""

    rule: str
    found: str = Field(description="Its kind, or the rule's name for a pattern of its own.")
    action: str = Field(description="refuse, mask or flag.")
    on: str = Field(description="input or output.")
    count: int


class Detail(Reply):
    """How a request came to what is said of it."""

    limits: list[LimitConsulted]
    attempts: list[AttemptReply]
    queue: QueueReply | None = Field(
        default=None, description="Null where there was a slot at once."
    )
    filters: list[FilterReply] = Field(default=[], description="What its tier's rules found.")
    timings: Timings
    retrieval: RetrievalReceipt | None = Field(
        default=None, description="What documents had to say, where they were asked."
    )


class FeedbackRequest(Request):
    """What the user says of an answer: a score or a rating; of several, the latest counts."""

    score: float | None = Field(default=None, ge=-1, le=1, description="From -1, bad, to 1, good.")
    rating: Literal["up", "down"] | None = Field(default=None, description="The same as 1 or -1.")
    comment: str | None = Field(default=None, max_length=2000, pattern=r"^[^\x00]*$")

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.score is None) == (self.rating is None):
            raise ValueError("say one of score and rating")
        return self

    @property
    def value(self) -> float:
        """The score, whichever way it was said."""
        return SCORES[self.rating] if self.rating else self.score or 0.0


class FeedbackReply(Reply):
    request_id: str
    object: Literal["feedback"] = "feedback"
    score: float
    comment: str | None
    created_at: datetime


class ReceiptReply(RequestReply):
    """One request: what the ledger has of it, and how it came to that."""

    user_id: str
    cost_usd: str = Field(description="The cost in dollars.", examples=["0.000204"])
    price: PriceReply | None = Field(description="The version that it was charged at.")
    feedback: FeedbackReply | None
    detail: Detail | None = Field(description="Kept for a shorter time than the rest.")
    note: str | None = Field(description="Why there is no `detail`.")
