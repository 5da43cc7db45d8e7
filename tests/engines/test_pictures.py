import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from galley.core.errors import BadRequestError
from galley.engines.pictures import Frame, decode

FRAME = Frame(256, (224, 224))
PHOTO = Path(__file__).parent.parent / "data" / "photos" / "coffee.jpg"


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters(mode: str = "RGB") -> Image.Image:
    """Red, green, blue and white, from the top left to the bottom right; wider than high."""
    image = Image.new("RGB", (300, 280), "white")
    image.paste("red", (0, 0, 150, 140))
    image.paste("lime", (150, 0, 300, 140))
    image.paste("blue", (0, 140, 150, 280))
    return image.convert(mode)


def corners(pixels: NDArray[np.uint8]) -> list[list[int]]:
    """The colours of the four corners, rounded to pure ones."""
    at = [pixels[20, 20], pixels[20, -20], pixels[-20, 20], pixels[-20, -20]]
    return [[255 * (int(channel) > 127) for channel in colour] for colour in at]


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("GIF", "P", {}),
    ],
)
def test_every_format_and_mode_comes_out_in_the_same_colours(
    kind: str, mode: str, options: dict[str, Any]
) -> None:
    picture = decode(saved(quarters(mode), kind, **options), FRAME)

    assert picture.pixels.shape == (224, 224, 3)
    assert picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (300, 280)
    assert corners(picture.pixels) == [RED, GREEN, BLUE, WHITE]


def test_the_pixels_are_those_of_resizing_the_whole_and_cutting_out_the_middle() -> None:
    image = Image.open(PHOTO).convert("RGB")
    whole = image.resize((384, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((80, 16, 304, 240))).astype(int)

    picture = decode(saved(image, "PNG"), FRAME)

    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    levels = np.linspace(0, 65535, 300 * 300).reshape(300, 300).astype(np.uint16)

    picture = decode(saved(Image.fromarray(levels), "PNG"), FRAME)

    assert picture.pixels[0].mean() < 50
    assert picture.pixels[-1].mean() > 205
    assert abs(picture.pixels.mean() - 127.5) < 2


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_become_rgb(mode: str) -> None:
    picture = decode(saved(Image.new("L", (300, 300), 255).convert(mode), "PNG"), FRAME)

    assert (picture.pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_what_is_transparent_is_white(kind: str) -> None:
    image = Image.new("RGBA", (300, 300), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 300, 150))

    picture = decode(saved(image, kind), FRAME)

    assert corners(picture.pixels) == [RED, RED, WHITE, WHITE]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
        (99, [RED, GREEN, BLUE, WHITE]),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_the_camera_was_held(
    orientation: int, expected: list[list[int]], kind: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    picture = decode(saved(quarters(), kind, exif=exif), FRAME)

    assert corners(picture.pixels) == expected
    upright = orientation not in (5, 6, 7, 8)
    assert (picture.width, picture.height) == ((300, 280) if upright else (280, 300))


def test_a_turned_picture_fits_a_frame_that_is_not_square() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    picture = decode(saved(quarters(), "JPEG", exif=exif), Frame((120, 80), (120, 80)))

    assert picture.pixels.shape == (120, 80, 3)
    assert corners(picture.pixels) == [BLUE, RED, WHITE, GREEN]


@pytest.mark.filterwarnings("ignore:.*EXIF")  # as in the server; see pictures.py
def test_damaged_exif_does_not_spoil_a_picture() -> None:
    data = saved(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff" + b"\xff" * 40)

    assert corners(decode(data, FRAME).pixels) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_a_moving_picture_the_first_frame_counts(kind: str) -> None:
    rest = [Image.new("RGB", (300, 280), "black")] * 3

    picture = decode(saved(quarters(), kind, save_all=True, append_images=rest), FRAME)

    assert corners(picture.pixels) == [RED, GREEN, BLUE, WHITE]


def test_a_picture_smaller_than_the_frame_is_enlarged() -> None:
    picture = decode(saved(Image.new("RGB", (1, 1), "lime"), "PNG"), FRAME)

    assert (picture.pixels == GREEN).all()
    assert (picture.width, picture.height) == (1, 1)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_very_long_picture_takes_little_memory(size: tuple[int, int]) -> None:
    data = saved(Image.new("RGB", size, "lime"), "PNG")
    tracemalloc.start()

    picture = decode(data, FRAME)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.pixels.shape == (224, 224, 3)
    assert peak < 10_000_000


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any data: a bomb of 65 bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def gif_of_size(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0" * 6
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0;"


@pytest.mark.parametrize(
    "data",
    [
        png_header(5001, 5000),
        png_header(10_000, 9_999),
        png_header(30_000, 30_000),
        png_header(2**31 - 1, 2**31 - 1),
        gif_of_size(65_535, 65_535),
    ],
)
def test_more_than_25_megapixels_are_refused_by_the_header(data: bytes) -> None:
    start = time.perf_counter()

    with pytest.raises(BadRequestError, match="megapixels") as refusal:
        decode(data, FRAME)

    assert time.perf_counter() - start < 0.1
    assert refusal.value.code == "invalid_image"


def test_25_megapixels_are_taken() -> None:
    picture = decode(saved(Image.new("L", (5000, 5000), 255), "PNG"), FRAME)

    assert (picture.pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_picture_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    data = saved(Image.open(PHOTO), kind)

    with pytest.raises(BadRequestError, match=r"cut off|cannot be read"):
        decode(data[: int(len(data) * share)], FRAME)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        saved(quarters(), "BMP"),
        saved(quarters(), "TIFF"),
        saved(quarters(), "PPM"),
        saved(quarters(), "ICO"),
    ],
)
def test_what_is_none_of_the_four_formats_is_refused_with_their_names(data: bytes) -> None:
    with pytest.raises(BadRequestError, match="PNG, JPEG, WebP or GIF"):
        decode(data, FRAME)


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded() -> None:
    data = saved(quarters(), "JPEG", progressive=True)
    scans = data.index(b"\xff\xda")
    start = time.perf_counter()

    with pytest.raises(BadRequestError, match="scans"):
        decode(data[:scans] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 1000 + data[scans:], FRAME)

    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_bytes_changed_at_random_give_a_picture_or_a_refusal(kind: str) -> None:
    original = saved(Image.open(PHOTO).resize((90, 60)), kind)
    random = np.random.default_rng(7)
    refused = 0

    for _ in range(300):
        data = bytearray(original)
        for position in random.integers(0, len(data), 8):
            data[position] = random.integers(256)
        try:
            assert decode(bytes(data), FRAME).pixels.shape == (224, 224, 3)
        except BadRequestError:
            refused += 1

    assert 0 < refused < 300
