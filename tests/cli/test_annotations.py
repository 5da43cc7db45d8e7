import io
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from galley.cli.annotations import annotate, write_new

LABELS = [("Egyptian cat", 0.5), ("tabby", 0.25), ("lynx", 0.01)]
ORIENTATION = 0x0112
SIDEWAYS = 6


def annotated(file: Path, labels: list[tuple[str, float]] = LABELS) -> Image.Image:
    return Image.open(io.BytesIO(annotate(file, labels).data))


def picture(folder: Path, size: tuple[int, int], colour: str = "white") -> Path:
    file = folder / "picture.png"
    Image.new("RGB", size, colour).save(file)
    return file


def contrast(image: Image.Image) -> float:
    """Between the letters and what is behind them. Source: WCAG 2.2, contrast ratio."""
    luminances = _luminances(image)
    behind = max(luminances, key=luminances.__getitem__)
    return (max(luminances) + 0.05) / (behind + 0.05)


def _luminances(image: Image.Image) -> dict[float, int]:
    found: dict[float, int] = {}
    for count, colour in image.convert("RGB").getcolors(1 << 24) or []:
        assert isinstance(colour, tuple)
        linear = [(v / 255 + 0.055) ** 2.4 / 1.055**2.4 for v in colour[:3]]
        shade = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        found[shade] = found.get(shade, 0) + count
    return found


@pytest.mark.parametrize("colour", ["white", "black", "gray"])
def test_labels_stand_out_from_any_picture(tmp_path: Path, colour: str) -> None:
    file = picture(tmp_path, (600, 400), colour)

    drawn = annotated(file)

    assert drawn.size == (600, 400)
    assert drawn.convert("RGB").getpixel((599, 0)) == ImageColor.getrgb(colour)
    assert contrast(drawn.crop((100, 340, 200, 400))) > 7


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (8, 900), (900, 8), (120, 100)])
def test_labels_go_below_a_picture_that_they_would_hide(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    file = picture(tmp_path, size, "red")

    drawn = annotated(file).convert("RGB")

    left = (drawn.width - size[0]) // 2
    kept = drawn.crop((left, 0, left + size[0], size[1]))
    assert kept.getcolors() == [(size[0] * size[1], (255, 0, 0))]
    assert drawn.height >= size[1] + 3 * 14


def test_letters_grow_with_the_picture(tmp_path: Path) -> None:
    small = annotated(picture(tmp_path, (600, 400))).convert("L")
    large = annotated(picture(tmp_path, (4800, 3200))).convert("L")

    covered = [
        sum(count for shade, count in enumerate(i.histogram()) if shade < 255) / i.width / i.height
        for i in (small, large)
    ]

    assert covered[1] == pytest.approx(covered[0], rel=0.5)


def test_a_picture_is_upright_as_its_camera_noted_and_without_the_cameras_notes(
    tmp_path: Path,
) -> None:
    notes = Image.Exif()
    notes[ORIENTATION] = SIDEWAYS
    lying = Image.new("RGB", (400, 600), "white")
    lying.paste("red", (0, 0, 400, 100))  # the top as stored is the right side as shown
    lying.save(tmp_path / "photo.jpg", exif=notes)

    drawn = annotated(tmp_path / "photo.jpg")

    assert (drawn.format, drawn.size, dict(drawn.getexif())) == ("JPEG", (600, 400), {})
    red, green, _ = drawn.getpixel((590, 10))  # pyright: ignore[reportGeneralTypeIssues] - a JPEG has three
    assert red > 240
    assert green < 20


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_can_be_drawn_on(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (600, 400)).save(file)

    drawn = annotated(file)

    assert drawn.size == (600, 400)
    assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 10


def test_sixteen_bits_of_grey_keep_their_shade(tmp_path: Path) -> None:
    Image.new("I;16", (600, 400), 0x8000).save(tmp_path / "a.png")

    drawn = annotated(tmp_path / "a.png")

    assert drawn.convert("RGB").getpixel((599, 0)) == (128, 128, 128)


def test_what_shines_through_still_does(tmp_path: Path) -> None:
    Image.new("RGBA", (600, 400), (0, 0, 255, 0)).save(tmp_path / "a.webp", lossless=True)

    copy = annotate(tmp_path / "a.webp", LABELS)

    drawn = Image.open(io.BytesIO(copy.data))
    assert copy.suffix == ".png"
    assert drawn.getpixel((599, 0))[3] == 0  # pyright: ignore[reportIndexIssue, reportOptionalSubscript] - RGBA has four


@pytest.mark.parametrize("labels", [[], [("x" * 5000, 1.0)], [("two\nlines", 0.0)]])
def test_labels_of_any_length_fit(tmp_path: Path, labels: list[tuple[str, float]]) -> None:
    drawn = annotated(picture(tmp_path, (600, 400)), labels)

    assert drawn.size == (600, 400)
    assert drawn.crop((0, 300, 600, 400)).convert("L").getextrema()[0] != 255


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    copy = annotate(picture(tmp_path, (20, 20)), LABELS)

    written = [write_new(tmp_path, "picture", copy).name for _ in range(2)]

    assert written == ["picture-2.png", "picture-3.png"]
    assert (tmp_path / "picture-3.png").read_bytes() == copy.data
