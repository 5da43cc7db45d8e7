"""Copies of pictures with their labels drawn on."""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

Labels = Sequence[tuple[str, float]]
"""Names and confidences, 0 to 1, best first."""

_LEAST_SIZE = 14  # pixels; smaller letters are hard to read
_WIDEST = 20  # letter sizes; a longer label is cut
_MOST_LETTERS = 4 * _WIDEST  # that may fit; to measure thousands takes seconds
_MOST_COVERED = 0.4  # of the picture's height; a larger panel goes below the picture
_DARK = (16, 18, 22)
_SEE_THROUGH = 215  # of 255: white letters stay legible where a white picture shines through
_BLUE = (37, 99, 235)
_WHITE = (255, 255, 255)
_PHOTOS = ("JPEG", "MPO")  # MPO: a JPEG with further pictures behind it, as telephones write it


@dataclass(frozen=True, slots=True)
class Annotated:
    """A copy's bytes, and the ending its name should have."""

    data: bytes
    suffix: str


def annotate(file: Path, labels: Labels) -> Annotated:
    """Draw `labels` on a copy of the picture in `file`, upright, its first frame.

    Where they would cover too much of a small picture they go below it. A JPEG stays one, anything
    else becomes a PNG; what else the file says (place, camera) is not copied.

    Raises:
        OSError: the picture cannot be read. Pillow raises other errors, too, on damaged ones.
    """
    with Image.open(file) as opened:
        photo = opened.format in _PHOTOS
        # A profile of other than red, green and blue says nothing about what is written here.
        profile = opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA") else None
        picture = _plain(ImageOps.exif_transpose(opened))
    drawn = _joined(picture, _panel(labels, _letter_size(*picture.size)))
    written = io.BytesIO()
    if photo:
        drawn.convert("RGB").save(written, "JPEG", quality=92, icc_profile=profile)
    else:
        drawn.save(written, "PNG", icc_profile=profile)
    return Annotated(written.getvalue(), ".jpg" if photo else ".png")


def write_new(folder: Path, stem: str, annotated: Annotated) -> Path:
    """Write a copy to `folder` and return where: a name that is taken gets a number.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path, file = _new_file(folder, stem, annotated.suffix)
    try:
        with file:
            file.write(annotated.data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _new_file(folder: Path, stem: str, suffix: str) -> tuple[Path, BinaryIO]:
    path = folder / f"{stem}{suffix}"
    for number in count(2):
        with suppress(FileExistsError):
            return path, path.open("xb")
        path = folder / f"{stem}-{number}{suffix}"
    raise AssertionError("there is always another number")


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to the lowest 8
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture.convert("RGBA")


def _letter_size(width: int, height: int) -> int:
    """In pixels; the same share of any picture, so that it is legible when shown whole."""
    return max(_LEAST_SIZE, min(width, height) // 24, max(width, height) // 80)


def _panel(labels: Labels, size: int) -> Image.Image:
    """One row per label: its name and confidence, on a bar as long as that."""
    font = ImageFont.load_default(size)
    rows = [(_cut(name, font, size), f"{share:.1%}", share) for name, share in labels]
    rows = rows or [("no label is likely enough", "", 0.0)]
    names = max(font.getlength(name) for name, _, _ in rows)
    shares = max(font.getlength(share) for _, share, _ in rows)
    margin, step = size // 2, size * 3 // 2
    width = round(names + shares + size * 1.5) + 2 * margin
    panel = Image.new("RGBA", (width, len(rows) * step + margin), (*_DARK, _SEE_THROUGH))
    draw = ImageDraw.Draw(panel)
    inner = width - 2 * margin
    for row, (name, percent, share) in enumerate(rows):
        top = margin // 2 + row * step
        if long := round(inner * share):
            bar = (margin, top + size // 8, margin + long, top + step - size // 8)
            draw.rectangle(bar, fill=_BLUE)
        middle = top + step / 2
        draw.text((margin * 1.5, middle), name, _WHITE, font, anchor="lm")
        draw.text((width - margin * 1.5, middle), percent, _WHITE, font, anchor="rm")
    return panel


def _cut(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int) -> str:
    name = " ".join(name.split())
    if len(name) <= _MOST_LETTERS and font.getlength(name) <= _WIDEST * size:
        return name
    name = name[:_MOST_LETTERS]
    while font.getlength(f"{name}...") > _WIDEST * size:
        name = name[:-1]
    return f"{name.rstrip()}..."


def _joined(picture: Image.Image, panel: Image.Image) -> Image.Image:
    width, height = picture.size
    if panel.width <= width and panel.height <= height * _MOST_COVERED:
        picture.alpha_composite(panel, (0, height - panel.height))
        return picture
    whole = Image.new("RGBA", (max(width, panel.width), height + panel.height), (*_DARK, 255))
    whole.paste(picture, ((whole.width - width) // 2, 0))
    whole.alpha_composite(panel, (0, height))
    return whole
