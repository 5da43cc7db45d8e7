"""What models cost: versions of prices in memory, and what a request comes to by one."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from galley.core.caller import Caller
from galley.core.errors import BadRequestError
from galley.db.claim import in_turn
from galley.db.cursors import Page
from galley.db.prices import add_price, price_history, priced_models, valid_prices
from galley.db.session import Sessions
from galley.db.tables import Price, utc_now
from galley.services.audit_log import note

log = structlog.get_logger(__name__)

RELOAD_S = 30.0
"""How often prices are read anew; what another server set is known here within a minute."""

MILLION = 1_000_000


class Used(Protocol):
    """The amounts that a request is charged for: a row of the ledger has them."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    units: int
    response_time_ms: float | None


class Pricing:
    """Knows the price of every model without asking the database.

    Args:
        clock: tells the time by which prices become valid.
    """

    def __init__(self, sessions: Sessions, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._sessions = sessions
        self._clock = clock
        self._prices: dict[str, list[Price]] = {}
        self._loading = asyncio.Lock()  # or a slow reading would undo a newer one

    async def load(self) -> None:
        """Read the prices that are valid, and those that will be."""
        async with self._loading:
            async with self._sessions() as session:
                found = await valid_prices(session, now=self._clock())
            prices: dict[str, list[Price]] = {}
            for price in found:
                prices.setdefault(price.model, []).insert(0, price)
            self._prices = prices

    async def keep_fresh(self, *, every_s: float = RELOAD_S) -> None:
        """Read them anew from time to time, until cancelled; a database that is away comes back."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.load()
            except (SQLAlchemyError, OSError) as error:
                log.warning("prices_not_read", error=str(error))

    def of(self, model: str) -> Price | None:
        """What `model` costs now; None when nobody has said."""
        now = self._clock()
        for price in self._prices.get(model, ()):
            if price.valid_from <= now:
                return price
        return None

    def current(self) -> list[Price]:
        """Every price that is valid now, by the model's name."""
        return [price for model in sorted(self._prices) if (price := self.of(model))]

    async def seed_free(self, models: Iterable[str]) -> None:
        """Say of those `models` that have no price at all that they are free."""
        async with self._sessions.begin() as session:
            await in_turn(session)
            known = await priced_models(session)
            for model in models:
                if model not in known:
                    await add_price(session, model=model, valid_from=self._clock())
        await self.load()

    async def set(
        self,
        caller: Caller,
        model: str,
        *,
        prompt: int,
        cached: int,
        completion: int,
        unit: int,
        second: int,
        valid_from: datetime | None = None,
    ) -> Price:
        """Add a price of `model`, in micro-dollars; older requests keep theirs.

        Args:
            cached: no more than `prompt`, so that a prompt that is not cached is the worst case.
            valid_from: unset: from now on.
        Raises:
            BadRequestError: it was to be valid in the past.
        """
        now = self._clock()
        if valid_from is not None and valid_from < now:
            raise BadRequestError(
                "A price cannot be valid from a moment in the past: what was asked for then was "
                "charged already. Leave valid_from out, and it is valid from now on.",
                code="invalid_valid_from",
                param="valid_from",
            )
        async with self._sessions.begin() as session:
            price = await add_price(
                session, model=model, prompt=prompt, cached=cached, completion=completion,
                unit=unit, second=second, valid_from=valid_from or now,
            )  # fmt: skip
            before = self.of(model)
            await note(
                session,
                caller,
                action="price.set",
                object=f"model:{model}",
                before=_as_noted(before) if before else None,
                after=_as_noted(price),
            )
        await self.load()
        return price

    async def history(
        self, *, model: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[Price]:
        """List prices as they were set, the latest first; see `price_history`."""
        async with self._sessions() as session:
            return await price_history(session, model=model, after=after, limit=limit)


def cost(
    price: Price,
    *,
    prompt_tokens: int = 0,
    cached_tokens: int = 0,
    completion_tokens: int = 0,
    units: int = 0,
    seconds: float | Decimal | Fraction = 0,
) -> int:
    """What a request comes to, in micro-dollars: exact, and rounded once, half up.

    Given the most that it may take, this is the most that it may cost.

    Args:
        cached_tokens: those of the prompt that were not read anew.
        units: pictures or texts.
        seconds: how long it took; a float is taken for exactly the number that it is.
    """
    cached_tokens = min(cached_tokens, prompt_tokens)
    millionths: int | Fraction = (
        (prompt_tokens - cached_tokens) * price.prompt
        + cached_tokens * price.cached
        + completion_tokens * price.completion
        + units * price.unit * MILLION
    )
    if price.second and seconds:
        millionths += Fraction(seconds) * price.second * MILLION
    divisor = MILLION * millionths.denominator
    return (2 * millionths.numerator + divisor) // (2 * divisor)


def cost_of(price: Price, used: Used) -> int:
    """What a row of the ledger comes to by `price`."""
    return cost(
        price,
        prompt_tokens=used.prompt_tokens,
        cached_tokens=used.cached_tokens,
        completion_tokens=used.completion_tokens,
        units=used.units,
        seconds=(used.response_time_ms or 0) / 1000,
    )


def _as_noted(price: Price) -> dict[str, Any]:
    amounts = ("prompt", "cached", "completion", "unit", "second")
    noted: dict[str, Any] = {name: getattr(price, name) for name in amounts}
    return noted | {"id": price.id, "valid_from": price.valid_from.isoformat()}
