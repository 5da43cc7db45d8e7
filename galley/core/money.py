"""Money: whole micro-dollars inside, dollars where people read and write them."""

from decimal import Decimal, InvalidOperation

MICRO = 1_000_000


def dollars(micro_dollars: int) -> str:
    """Write an amount in dollars, exactly: at least cents, at most millionths."""
    whole, rest = divmod(abs(micro_dollars), MICRO)
    digits = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro_dollars < 0 else ''}{whole}.{digits}"


def micro_dollars(text: str) -> int:
    """Read an amount in dollars.

    Raises:
        ValueError: it is no amount, or finer than a micro-dollar.
    """
    try:
        amount = Decimal(text) * MICRO
    except InvalidOperation:
        raise ValueError(f"{text!r} is no amount in dollars") from None
    if not amount.is_finite() or amount != amount.to_integral_value():
        raise ValueError(f"{text!r} is no amount in whole micro-dollars")
    return int(amount)
