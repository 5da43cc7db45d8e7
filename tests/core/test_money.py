"""Dollars for people, micro-dollars for sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core.money import dollars, micro_dollars


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (1, "0.000001"), (150_000, "0.15"), (2_500_000, "2.50"), (-30, "-0.00003")],
)
def test_amounts_are_written_exactly_and_with_cents(amount: int, text: str) -> None:
    assert dollars(amount) == text


@given(st.integers(-(10**18), 10**18))
def test_what_is_written_is_read_as_the_same_amount(amount: int) -> None:
    assert micro_dollars(dollars(amount)) == amount


@pytest.mark.parametrize("text", ["", "cheap", "0.0000001", "nan", "inf", "1,5", "$1"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        micro_dollars(text)
