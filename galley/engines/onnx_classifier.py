"""Image classification on ONNX Runtime."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.base import Begun, Classified, Floats
from galley.engines.batching import Batcher
from galley.engines.graphs import efficientnet_lite0, kept
from galley.engines.onnx_session import Session, open_session
from galley.engines.pictures import Frame, Picture, decode
from galley.engines.sentence_files import read_json
from galley.engines.weights import WeightsError, read_torch_pickle

_CALL_PICTURES = 4
_ACCELERATED_CALL_PICTURES = 64
_MAX_DECODERS = 4
_CONVNEXT_UNCUT = 384  # from this size on, ConvNeXt's processor cuts nothing off
_IMAGENET_LABELS = Path(__file__).with_name("imagenet_labels.txt")


@dataclass(frozen=True, slots=True)
class Preparation:
    """From pixels to what the graph reads.

    `norm` is (scale, shift) per channel, for graphs that want `pixels * scale - shift` with the
    channels first; without it, the graph takes the pixels as they are.
    """

    frame: Frame
    norm: tuple[Floats, Floats] | None = None

    def batch(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        stacked = np.stack(pictures)
        if self.norm is None:
            return stacked
        scale, shift = self.norm
        scaled = stacked.astype(np.float32) * scale - shift
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def open_classifier(path: Path, threads: int) -> "OnnxClassifier":
    """Load an image classifier. Blocks; the first time, it builds the graph.

    Args:
        path: the weights of EfficientNet-Lite0 (`.pth`), or a folder with `model.onnx`,
            `config.json` and `preprocessor_config.json`, as Hugging Face's exporter writes them.
        threads: of the CPU; 0 takes every core.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """
    if path.suffix == ".pth":
        graph = kept(path, "", lambda: efficientnet_lite0(read_torch_pickle(path)))
        prepare = Preparation(Frame(256, (224, 224)))
        labels = read_labels()
    else:
        folder = path.parent if path.is_file() else path
        graph = folder / "model.onnx"
        prepare = _read_preparation(folder / "preprocessor_config.json")
        labels = _read_names(folder / "config.json")
    blank = [np.zeros((*prepare.frame.crop, 3), np.uint8)] * 2
    session = open_session(graph, threads, lambda inputs: {_only(inputs): prepare.batch(blank)})
    return OnnxClassifier(session, prepare, labels)


class OnnxClassifier:
    """A `Classifier`; made by `open_classifier`.

    Raises:
        WeightsError: the graph does not give one number per label.
    """

    problem: str | None = None

    def __init__(self, session: Session, prepare: Preparation, labels: Sequence[str]) -> None:
        self.hardware = session.hardware
        self.labels = labels
        self._session = session
        self._prepare = prepare
        self._input = _only(session.inputs)
        self._output = next(
            (name for name in ("probabilities", "logits") if name in session.outputs),
            session.outputs[0],
        )
        found = self._probabilities([np.zeros((*prepare.frame.crop, 3), np.uint8)]).shape
        if found != (1, len(labels)):
            raise WeightsError(f"the graph gives {found[1:]} numbers for {len(labels)} labels")
        self._decoding = ThreadPoolExecutor(
            min(_MAX_DECODERS, os.cpu_count() or 1), "galley-decode"
        )
        self._batcher = Batcher(
            self._probabilities,
            name="galley-classify",
            limit=_ACCELERATED_CALL_PICTURES if session.accelerated else _CALL_PICTURES,
            threads=session.calls,
        )

    async def classify(
        self, images: Sequence[bytes], *, begun: Begun | None = None
    ) -> list[Classified | BadRequestError]:
        if self.problem:
            raise OverloadedError("The model is shut down.")
        return await asyncio.gather(*(self._one(image, begun) for image in images))

    async def aclose(self) -> None:
        self.problem = "shut down"
        self._decoding.shutdown(wait=False)
        await self._batcher.close()

    async def _one(self, image: bytes, begun: Begun | None) -> Classified | BadRequestError:
        loop = asyncio.get_running_loop()
        try:
            picture, decode_s = await loop.run_in_executor(self._decoding, self._decode, image)
        except BadRequestError as error:
            return error
        batched = await self._batcher([picture.pixels], begun)
        return Classified(
            probabilities=batched.rows[0],
            pixels=picture.pixels,
            width=picture.width,
            height=picture.height,
            decode_ms=1000 * decode_s,
            queue_ms=1000 * batched.queue_s,
            inference_ms=1000 * batched.run_s,
        )

    def _decode(self, image: bytes) -> tuple[Picture, float]:
        start = time.perf_counter()
        picture = decode(image, self._prepare.frame)
        return picture, time.perf_counter() - start

    def _probabilities(self, pictures: Sequence[NDArray[np.uint8]]) -> Floats:
        feed = {self._input: self._prepare.batch(pictures)}
        found = self._session.run(self._output, feed)
        if self._output == "probabilities":
            return found
        exponents = np.exp(found - found.max(axis=-1, keepdims=True))
        return exponents / exponents.sum(axis=-1, keepdims=True)


def read_labels() -> list[str]:
    """The thousand classes of ImageNet in their usual order."""
    lines = _IMAGENET_LABELS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _only(inputs: Mapping[str, str]) -> str:
    if len(inputs) != 1:
        raise WeightsError(f"model.onnx wants {', '.join(inputs)}; needed is one picture alone")
    return next(iter(inputs))


def _read_names(path: Path) -> list[str]:
    names = read_json(path).get("id2label", {})
    if not isinstance(names, dict) or not names or set(names) != set(map(str, range(len(names)))):
        raise WeightsError(f"{path} has no id2label that counts from 0")
    return [str(names[str(number)]) for number in range(len(names))]


def _read_preparation(path: Path) -> Preparation:
    """Read what an image processor of Hugging Face's transformers wrote."""
    given = read_json(path)
    try:
        frame = _read_frame(given)
        rescale = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
        mean, deviation = np.zeros(3, np.float32), np.ones(3, np.float32)
        if given.get("do_normalize", True):
            mean = np.array(given["image_mean"], np.float32).reshape(3)
            deviation = np.array(given["image_std"], np.float32).reshape(3)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not say how to prepare pictures: {error}") from error
    return Preparation(frame, (np.float32(rescale) / deviation, mean / deviation))


def _read_frame(given: dict[str, Any]) -> Frame:
    resample = Image.Resampling(given.get("resample", Image.Resampling.BICUBIC))
    size = given["size"]
    if isinstance(size, dict) and "shortest_edge" not in size:
        exact = (int(size["height"]), int(size["width"]))
        return Frame(exact, _read_crop(given) or exact, resample)
    short = int(size if isinstance(size, int) else size["shortest_edge"])
    # ConvNeXt's processor resizes to more than it says, and cuts that down to it.
    if "crop_pct" in given:
        larger = int(short / given["crop_pct"])
        return Frame(
            larger if short < _CONVNEXT_UNCUT else (short, short), (short, short), resample
        )
    crop = _read_crop(given)
    if crop is None:
        raise ValueError("without a crop, pictures would differ in shape")
    return Frame(short, crop, resample)


def _read_crop(given: dict[str, Any]) -> tuple[int, int] | None:
    if not given.get("do_center_crop", "crop_size" in given):
        return None
    crop = given["crop_size"]
    return (crop, crop) if isinstance(crop, int) else (int(crop["height"]), int(crop["width"]))
