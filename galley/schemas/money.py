"""Prices and invoices. Amounts are whole micro-dollars; dollars are text, for people."""

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from galley.schemas.base import Reply, Request
from galley.schemas.keys import Moment

HIGHEST = 10**10
"""No price is higher: ten thousand dollars for a million tokens, a picture or a second."""

_PER_MILLION = "Micro-dollars per million tokens"


def _amount(description: str) -> int:
    return Field(default=0, ge=0, le=HIGHEST, description=description)


class PriceSet(Request):
    """A new version of a model's price; what is left out costs nothing."""

    prompt: int = _amount(f"{_PER_MILLION} of prompt.")
    cached: int | None = Field(
        default=None, ge=0, le=HIGHEST,
        description="The same for those that the model had in its cache; unset: as others.",
    )  # fmt: skip
    completion: int = _amount(f"{_PER_MILLION} of answer.")
    unit: int = _amount("Micro-dollars per picture or text.")
    second: int = _amount("Micro-dollars per second that a request takes.")
    valid_from: Moment | None = Field(default=None, description="Unset: now.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set - {"valid_from"}:
            raise ValueError("say at least one price, 0 where the model is free")
        if self.cached is not None and self.cached > self.prompt:
            raise ValueError("cached tokens cannot cost more than others")
        return self


class PriceReply(Reply):
    """One version of a model's price."""

    id: str
    object: Literal["price"] = "price"
    model: str
    valid_from: datetime
    prompt: int = Field(description=f"{_PER_MILLION} of prompt.")
    cached: int
    completion: int
    unit: int = Field(description="Micro-dollars per picture or text.")
    second: int


class PriceList(Reply):
    object: Literal["list"] = "list"
    data: list[PriceReply]
    has_more: bool


class CurrentPrice(Reply):
    """What a model costs now, in dollars."""

    model: str
    valid_from: datetime
    prompt: str = Field(description="Dollars per million tokens of prompt.", examples=["0.15"])
    cached: str = Field(description="The same for those that the model had in its cache.")
    completion: str = Field(description="Dollars per million tokens of answer.")
    unit: str = Field(description="Dollars per picture or text.")
    second: str = Field(description="Dollars per second that a request takes.")


class CurrentPriceList(Reply):
    object: Literal["list"] = "list"
    data: list[CurrentPrice]


class InvoiceLine(Reply):
    """What one model came to at one endpoint."""

    model: str = Field(description="Empty for requests that reached none.")
    endpoint: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    units: int = Field(description="Pictures or texts.")
    cost: int = Field(description="In micro-dollars.")
    amount: str = Field(description="The same in dollars.")


class InvoiceReply(Reply):
    """What a user owes for a calendar month, in UTC."""

    object: Literal["invoice"] = "invoice"
    month: str = Field(examples=["2026-11"])
    final: bool = Field(description="False as long as the month may still grow.")
    user_id: str
    email: str
    name: str
    lines: list[InvoiceLine]
    cost: int = Field(description="In micro-dollars.")
    total: str = Field(description="The same in dollars.")
    paid: int | None = Field(
        description="What of it was paid from credit; null for who has none, and is billed."
    )
    paid_amount: str | None = Field(description="The same in dollars.")
    due: int = Field(description="What is left to pay, in micro-dollars.")
    due_amount: str = Field(description="The same in dollars.")


class InvoiceMonth(Reply):
    """An invoice without its lines."""

    month: str
    final: bool
    requests: int
    cost: int = Field(description="In micro-dollars.")
    total: str = Field(description="The same in dollars.")


class InvoiceList(Reply):
    object: Literal["list"] = "list"
    data: list[InvoiceMonth]
