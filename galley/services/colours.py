"""The colours of a picture, in words.

Source: Berlin & Kay 1969, Basic Color Terms; IEC 61966-2-1 (sRGB); CIE 15 (L*a*b*, D65).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Each word stands for its focal colour and the shades of it that are common in photographs.
_SHADES = {
    "black": ("000000", "1e1e20"),
    "grey": ("4a4a4a", "808080", "b4b4b4"),
    "white": ("f0f0f0", "ffffff"),
    "red": ("e01010", "901018", "d04040"),
    "orange": ("ff8000", "e07828"),
    "yellow": ("ffe010", "d8c030", "f0e890"),
    "green": ("18a030", "205020", "60904a", "90d080"),
    "blue": ("1040e0", "102060", "30405c", "4078b0", "88c0f0"),
    "purple": ("802090", "502870", "a878c8"),
    "pink": ("ff70b0", "f0b0c0"),
    "brown": ("7a4420", "402818", "8c6a4c", "b48c68"),
    "beige": ("d8c4a4", "ece0cc"),
}
_LINEAR_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
_WHITE = np.array([0.9505, 1.0, 1.089])


def main_colours(pixels: NDArray[np.uint8], *, most: int = 3, share: float = 0.15) -> list[str]:
    """Name what covers most of a picture, the largest part first; at least one colour.

    Args:
        pixels: height x width x RGB.
        most: how many to name.
        share: leave out what covers less of it than this.
    """
    lab = _lab(pixels.reshape(-1, 3))
    nearest = ((lab[:, None] - _LAB[None]) ** 2).sum(axis=2).argmin(axis=1)
    covered = np.bincount(_WORD_OF[nearest], minlength=len(WORDS)) / len(lab)
    order: list[int] = np.argsort(-covered)[:most].tolist()
    return [WORDS[i] for n, i in enumerate(order) if n == 0 or covered[i] >= share]


def _lab(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """From sRGB to L*a*b*, where a distance is about how different two colours look."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    x, y, z = _lightness(linear @ _LINEAR_TO_XYZ.T / _WHITE).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _lightness(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)


WORDS: Sequence[str] = tuple(_SHADES)
"""All that a colour can be called."""

_CODES = [(word, code) for word, codes in enumerate(_SHADES.values()) for code in codes]
_WORD_OF = np.array([word for word, _ in _CODES])
_LAB = _lab(np.array([list(bytes.fromhex(code)) for _, code in _CODES], np.uint8))
