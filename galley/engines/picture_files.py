"""What the files beside an image classifier's weights say: its labels, and how to prepare pictures.

Read are the files of Hugging Face's transformers (`config.json`, `preprocessor_config.json`), of
timm (`config.json` with a `pretrained_cfg`) and, for labels, a `labels.txt`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galley.engines.base import Floats
from galley.engines.pictures import Frame
from galley.engines.sentence_files import read_json
from galley.engines.weights import WeightsError

Size = tuple[int, int]
"""Height and width, in pixels."""

_CONVNEXT_UNCUT = 384  # from this size on, ConvNeXt's processor cuts nothing off
_IMAGENET_LABELS = Path(__file__).with_name("imagenet_labels.txt")


@dataclass(frozen=True, slots=True)
class Preparation:
    """From a picture to what a model reads: `pixels * scale - shift`, per channel."""

    frame: Frame
    scale: Floats
    shift: Floats

    def normed(self, pictures: Sequence[NDArray[np.uint8]]) -> Floats:
        """Pictures x height x width x channels."""
        return np.stack(pictures).astype(np.float32) * self.scale - self.shift


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """A classifier's folder, read except for the weights."""

    folder: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    timm: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "PictureFiles":
        """Read what there is of the configuration.

        Raises:
            WeightsError: a file is damaged.
        """
        config = read_json(folder / "config.json")
        processor = read_json(folder / "preprocessor_config.json")
        if not processor:  # some write all parts of a processor into one file
            processor = read_json(folder / "processor_config.json").get("image_processor", {})
        timm = config.get("pretrained_cfg") or processor.get("pretrained_cfg") or {}
        return cls(folder, config, processor, timm)

    def labels(self) -> list[str]:
        """The classes in their order.

        Raises:
            WeightsError: no file names them.
        """
        if self.config.get("problem_type") == "multi_label_classification":
            raise WeightsError(
                f"{self.folder / 'config.json'}: the model gives each picture any number of labels"
                " (problem_type); served are models that choose one"
            )
        if names := self.config.get("id2label"):
            return _in_order(names, self.folder / "config.json")
        if names := self.config.get("label_names") or self.timm.get("label_names"):
            return [str(name) for name in names]
        if (path := self.folder / "labels.txt").is_file():
            return _read_lines(path)
        if "in1k" in str(self.timm.get("tag", "")):
            return imagenet_labels()
        raise WeightsError(
            f"{self.folder} names no labels: config.json needs id2label, or write labels.txt,"
            " one label a line"
        )

    def preparation(self, size: Size | None = None) -> Preparation:
        """How pictures are prepared.

        Args:
            size: what the model reads, where it reads one size alone.
        Raises:
            WeightsError: no file says it, or it says what is not supported.
        """
        by_timm = bool(self.timm) and "image_mean" not in self.processor
        path = self.folder / ("config.json" if by_timm else "preprocessor_config.json")
        if not by_timm and not self.processor:
            raise WeightsError(
                f"{path} is missing: it says how to prepare pictures (size, crop_size, image_mean,"
                " image_std)"
            )
        try:
            return _of_timm(self.timm, size) if by_timm else _of_processor(self.processor)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise WeightsError(f"{path} does not say how to prepare pictures: {error}") from error


def imagenet_labels() -> list[str]:
    """The thousand classes of ImageNet in their usual order."""
    return [line for line in _read_lines(_IMAGENET_LABELS) if not line.startswith("#")]


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _in_order(names: Any, path: Path) -> list[str]:
    if not isinstance(names, dict) or set(names) != set(map(str, range(len(names)))):
        raise WeightsError(f"{path} has no id2label that counts from 0")
    return [str(names[str(number)]) for number in range(len(names))]


def _of_processor(given: Mapping[str, Any]) -> Preparation:
    """Read what an image processor of transformers wrote."""
    if given.get("do_resize") is False:
        raise ValueError("without do_resize, pictures would differ in shape")
    rescale = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    mean, deviation = [0.0] * 3, [1.0] * 3
    if given.get("do_normalize", True):
        mean, deviation = given["image_mean"], given["image_std"]
    return _prepared(_frame_of_processor(given), rescale, mean, deviation)


def _frame_of_processor(given: Mapping[str, Any]) -> Frame:
    resample = Image.Resampling(given.get("resample", Image.Resampling.BICUBIC))
    size = given["size"]
    if isinstance(size, dict) and "shortest_edge" not in size:
        exact = (int(size["height"]), int(size["width"]))
        return _framed(exact, _crop(given) or exact, resample)
    short = int(size if isinstance(size, int) else size["shortest_edge"])
    # ConvNeXt's processor resizes to more than it says, and cuts that down to it.
    if "crop_pct" in given:
        larger = int(short / given["crop_pct"]) if short < _CONVNEXT_UNCUT else (short, short)
        return _framed(larger, (short, short), resample)
    crop = _crop(given)
    if crop is None:
        raise ValueError("without a crop, pictures would differ in shape")
    return _framed(short, crop, resample)


def _crop(given: Mapping[str, Any]) -> Size | None:
    if not given.get("do_center_crop", "crop_size" in given):
        return None
    crop = given["crop_size"]
    return (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))


def _of_timm(given: Mapping[str, Any], size: Size | None) -> Preparation:
    """Read a model's `pretrained_cfg`.

    Source: timm, `data/transforms_factory.py`, `transforms_imagenet_eval`.
    """
    crop = size or cast(Size, tuple(given["input_size"][1:]))
    # Many are at their best with larger pictures than they were trained on.
    larger = list(crop) == list(given.get("test_input_size", ()))[1:]
    part = float(given.get("test_crop_pct" if larger else "crop_pct") or 1.0)
    exact = (math.floor(crop[0] / part), math.floor(crop[1] / part))
    mode = given.get("crop_mode", "center")
    if mode not in ("center", "squash") or (mode == "center" and crop[0] != crop[1]):
        raise ValueError(f"crop_mode {mode!r} for {crop[0]} x {crop[1]} pixels is not supported")
    resample = Image.Resampling[str(given.get("interpolation", "bicubic")).upper()]
    frame = _framed(exact if mode == "squash" else exact[0], crop, resample)
    return _prepared(frame, 1 / 255, given["mean"], given["std"])


def _framed(resize: int | Size, crop: Size, resample: Image.Resampling) -> Frame:
    sides = (*crop, *((resize, resize) if isinstance(resize, int) else resize))
    if not all(1 <= side <= 4096 for side in sides):
        raise ValueError(f"sizes are from 1 to 4096 pixels, not {max(sides)}")
    return Frame(resize, crop, resample)


def _prepared(frame: Frame, rescale: Any, mean: Any, deviation: Any) -> Preparation:
    means = np.array(mean, np.float32).reshape(3)
    deviations = np.array(deviation, np.float32).reshape(3)
    if not deviations.all():
        raise ValueError("a standard deviation is 0")
    return Preparation(frame, np.float32(rescale) / deviations, means / deviations)
