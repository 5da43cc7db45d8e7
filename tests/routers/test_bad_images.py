"""Pictures from strangers: bombs, cut off, or something else altogether."""

import base64
import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.serving import LiveServer

CAT = Path(__file__).parent.parent / "data" / "photos" / "cat.jpg"
SLOWEST_S = 2.0  # a refusal takes milliseconds; this is for a machine that is busy with more


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A grey PNG that says it has so many pixels, and has none."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(CAT).save(file, kind)
    return file.getvalue()


def much() -> bytes:
    """100 MB in 100 KB, as PNG keeps texts and colour profiles."""
    return b"a\0\0" + zlib.compress(b"a" * 10**8, 1)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG of 2.5 gigapixels": lambda: png(50_000, 50_000),
    "a PNG just over the limit": lambda: png(5_001, 5_000),
    "a PNG 4 billion pixels wide": lambda: png(2**31 - 1, 1),
    "a GIF of 4 gigapixels": lambda: (
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";"
    ),
    "a text of 100 MB in 100 KB": lambda: png(8, 8, chunk(b"zTXt", much())),
    "a colour profile of 100 MB": lambda: png(8, 8, chunk(b"iCCP", much())),
    "no pixels at all": lambda: png(0, 0),
}
CUT = {kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")}
ELSE = {
    "nothing": b"",
    "a text": b"hello",
    "a PDF": b"%PDF-1.7\n%%EOF",
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "a BMP": encoded("BMP"),
    "a TIFF": encoded("TIFF"),
    "zeros": bytes(100_000),
}


def classify(server: LiveServer, picture: bytes) -> str:
    """Insist that both versions refuse `picture`, and return the reason."""
    text = "data:image/png;base64," + base64.b64encode(picture).decode()
    began = time.monotonic()
    first = server.post("/classify", image=text)
    second = server.post("/v2/classify", images=[{"image": text}])
    form = server.client.post("/v2/classify", files={"images": ("x.png", picture)})

    assert time.monotonic() - began < SLOWEST_S
    assert first.status_code == 400, first.text
    assert second.status_code == form.status_code == 200
    reasons = [answer.json()["results"][0]["error"] for answer in (second, form)]
    assert reasons == [first.json()["detail"]] * 2
    return reasons[0]


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_does_not_go_off(live_server: LiveServer, bomb: Callable[[], bytes]) -> None:
    picture = bomb()

    reason = classify(live_server, picture)

    assert any(word in reason for word in ("megapixels", "damaged", "cannot be read"))


@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("kind", CUT)
def test_a_picture_that_is_cut_off_is_refused(
    live_server: LiveServer, kind: str, part: float
) -> None:
    whole = CUT[kind]

    reason = classify(live_server, whole[: int(len(whole) * part)])

    assert "damaged" in reason or "cannot be read" in reason


@pytest.mark.parametrize("data", ELSE.values(), ids=ELSE)
def test_what_is_no_picture_of_a_known_kind_is_refused(
    live_server: LiveServer, data: bytes
) -> None:
    assert "PNG, JPEG, WebP or GIF" in classify(live_server, data)
