"""Turn picture files from strangers into the pixels that a classifier reads."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galley.core.errors import BadRequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 25_000_000
# Each scan of a progressive JPEG goes over the whole picture again; cameras write about ten.
_MAX_SCANS = 100
_START_OF_SCAN = b"\xff\xda"
_PIECE = 4_194_304  # bytes that are searched in one go
_ORIENTATION = 0x0112
_LYING = range(5, 9)  # turned by a quarter, so that width and height change places
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What is odd about a stranger's picture is for the stranger, not for the server's log.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class Frame:
    """How a model wants its pictures: resized, then the middle cut out; sizes in pixels.

    `resize` is the shorter side's length, or the exact (height, width).
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def turned(self) -> "Frame":
        """The same for a picture that lies on its side."""
        resize = self.resize if isinstance(self.resize, int) else _swapped(self.resize)
        return Frame(resize, _swapped(self.crop), self.resample)

    @property
    def least(self) -> tuple[int, int]:
        """The width and height below which a picture would be enlarged."""
        if isinstance(self.resize, int):
            return self.resize, self.resize
        return _swapped(self.resize)

    def fitted(self, width: int, height: int) -> tuple[float, float]:
        """The width and height to which a picture is resized before the cut."""
        if not isinstance(self.resize, int):
            return self.resize[1], self.resize[0]
        scale = self.resize / min(width, height)
        return round(width * scale), round(height * scale)


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels, height x width x RGB, and the size of the whole picture as it is shown."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def measure(data: bytes) -> tuple[int, int]:
    """Return the width and height that a picture's header tells, before it is turned upright.

    Raises:
        BadRequestError: as `decode`, but for damage behind the header.
    """
    return _open(data).size


def decode(data: bytes, frame: Frame) -> Picture:
    """Read a picture's first frame.

    Raises:
        BadRequestError: it is no PNG, JPEG, WebP or GIF, is larger than 25 megapixels (by its
            header, before anything is decoded), or is damaged.
    """
    image = _open(data)
    width, height = image.size
    try:
        # libjpeg can leave out most of the work on a large photograph.
        image.draft("RGB", frame.least)
        orientation = _orientation(image)
        lying = orientation in _LYING
        pixels = _cut(image, frame.turned() if lying else frame)
        if orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[orientation])
    except Exception as error:  # Pillow raises anything on bad bytes, and the bytes are at fault
        raise _bad("The image is damaged or cut off.") from error
    if lying:
        width, height = height, width
    return Picture(np.asarray(pixels), width, height)


def _swapped(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bad(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels.") from error
    except Exception as error:  # as in `decode`
        raise _bad("The image cannot be read; send a PNG, JPEG, WebP or GIF file.") from error
    if image.width * image.height > MAX_PIXELS:
        raise _bad(
            f"The image has {image.width} x {image.height} pixels;"
            f" at most {MAX_PIXELS // 1_000_000} megapixels are taken."
        )
    if image.format == "JPEG" and _scans(data) > _MAX_SCANS:
        raise _bad(f"The JPEG has more than {_MAX_SCANS} scans.")
    return image


def _scans(data: bytes) -> int:
    """Count them piece by piece, so that others have their turn."""
    last = len(_START_OF_SCAN) - 1
    starts = range(0, len(data), _PIECE)
    return sum(data.count(_START_OF_SCAN, at, at + _PIECE + last) for at in starts)


def _bad(message: str) -> BadRequestError:
    return BadRequestError(message, code="invalid_image", param="image")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged notes about a picture do not spoil the picture
        return 1


def _cut(image: Image.Image, frame: Frame) -> Image.Image:
    """Resize the middle alone: the whole of a picture 1 pixel high would not fit in memory."""
    image = _plain(image)
    width, height = image.size
    fitted_width, fitted_height = frame.fitted(width, height)
    across, down = width / fitted_width, height / fitted_height
    left = (fitted_width - frame.crop[1]) // 2 * across
    top = (fitted_height - frame.crop[0]) // 2 * down
    right = min(left + frame.crop[1] * across, width)
    bottom = min(top + frame.crop[0] * down, height)
    image = image.resize(_swapped(frame.crop), frame.resample, box=(left, top, right, bottom))
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image


def _plain(image: Image.Image) -> Image.Image:
    """Bring any mode to RGB, or RGBA where something shines through."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to the lowest 8
        levels = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
