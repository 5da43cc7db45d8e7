"""Colours by their names."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from galley.services.colours import main_colours


def stripes(*parts: tuple[Sequence[int], int]) -> NDArray[np.uint8]:
    """A picture of 10 x 100 pixels, striped in so many columns of each colour."""
    row = [colour for colour, columns in parts for _ in range(columns)]
    return np.array([row] * 10, np.uint8)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("000000", "black"),
        ("ffffff", "white"),
        ("808080", "grey"),
        ("ff0000", "red"),
        ("ffa500", "orange"),
        ("ffff00", "yellow"),
        ("008000", "green"),
        ("0000ff", "blue"),
        ("800080", "purple"),
        ("ffc0cb", "pink"),
        ("8b4513", "brown"),
        ("f5f5dc", "beige"),
        ("87ceeb", "blue"),
        ("000080", "blue"),
        ("228b22", "green"),
        ("8b0000", "red"),
    ],
)
def test_the_colours_of_the_web_have_their_plain_names(code: str, name: str) -> None:
    assert main_colours(stripes((list(bytes.fromhex(code)), 100))) == [name]


def test_what_covers_most_comes_first_and_little_is_left_out() -> None:
    picture = stripes(([0, 0, 255], 30), ([255, 0, 0], 60), ([0, 128, 0], 10))

    assert main_colours(picture) == ["red", "blue"]


def test_no_more_than_three_are_named() -> None:
    picture = stripes(
        ([255, 255, 255], 28), ([255, 0, 0], 26), ([0, 0, 255], 24), ([0, 128, 0], 22)
    )

    assert main_colours(picture) == ["white", "red", "blue"]


def test_of_many_colours_the_first_is_named_all_the_same() -> None:
    codes = ["ff0000", "ffff00", "008000", "0000ff", "800080", "ffc0cb", "000000", "ffffff"]
    parts = [(list(bytes.fromhex(code)), 12) for code in codes]

    assert main_colours(stripes(*parts, ([255, 0, 0], 4)), share=0.5) == ["red"]
