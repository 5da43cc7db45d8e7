"""Image classification on ONNX Runtime: any graph that reads pictures and gives one row each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galley.engines.base import Floats
from galley.engines.batched_classifier import BatchedClassifier, Pixels, softmax
from galley.engines.graphs import efficientnet_lite0, kept
from galley.engines.onnx_session import Feed, Input, Session, open_session
from galley.engines.picture_files import PictureFiles, Preparation, Size, imagenet_labels
from galley.engines.pictures import Frame
from galley.engines.weights import WeightsError, read_torch_pickle

_CALL_PICTURES = 4
_ACCELERATED_CALL_PICTURES = 64
_TYPES: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
# How far from 1 a row may sum up, in half precision, and still be probabilities.
_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Layout:
    """How a graph wants its pictures: `batch` and `size` where it takes no others.

    Graphs that read bytes are given the pixels as they are.
    """

    name: str
    kind: type[np.generic]
    channels_first: bool
    batch: int | None
    size: Size | None

    @classmethod
    def of(cls, inputs: Mapping[str, Input]) -> "Layout":
        """Read it from the graph's inputs.

        Raises:
            WeightsError: it does not read pictures in RGB.
        """
        (name, given), *others = inputs.items()
        shape, kind = given.shape, _TYPES.get(given.type)
        if others or kind is None or len(shape) != 4 or 3 not in (shape[1] or 3, shape[3]):
            asked = ", ".join(f"{n} as {i.type} of {list(i.shape)}" for n, i in inputs.items())
            raise WeightsError(
                f"the graph asks for {asked}; needed is one input, numbers of pictures x 3 x height"
                " x width or pictures x height x width x 3"
            )
        first = shape[1] == 3 or (shape[1] is None and shape[3] != 3)
        height, width = shape[2:] if first else shape[1:3]
        size = (height, width) if height and width else None
        return cls(name, kind, first, shape[0], size)

    def feed(self, pictures: Sequence[Pixels], prepare: Preparation) -> Feed:
        """Lay out one run's pictures as the graph wants them."""
        as_they_are = self.kind is np.uint8
        numbers: NDArray[Any] = np.stack(pictures) if as_they_are else prepare.normed(pictures)
        if self.channels_first:
            numbers = np.ascontiguousarray(numbers.transpose(0, 3, 1, 2))
        return {self.name: numbers.astype(self.kind, copy=False)}


def open_classifier(path: Path, threads: int) -> BatchedClassifier:
    """Load an image classifier. Blocks; the first time, it builds the graph.

    Args:
        path: the weights of EfficientNet-Lite0 (`.pth`), or an ONNX graph, or a folder with
            `model.onnx`; beside it, or above a folder called `onnx`, the files that
            `PictureFiles` reads.
        threads: of the CPU; 0 takes every core.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """
    if path.suffix == ".pth":
        built = kept(path, "", lambda: efficientnet_lite0(read_torch_pickle(path)))
        return _open(built, threads, _as_bytes, imagenet_labels())
    graph = path if path.is_file() else _graph_in(path)
    above = graph.parent.name == "onnx" and not (graph.parent / "config.json").is_file()
    files = PictureFiles.read(graph.parent.parent if above else graph.parent)
    return _open(graph, threads, files.preparation, files.labels())


def _graph_in(folder: Path) -> Path:
    inner = folder / "onnx" / "model.onnx"
    return inner if inner.is_file() else folder / "model.onnx"


def _as_bytes(_: Size | None) -> Preparation:
    frame = Frame(256, (224, 224), Image.Resampling.BICUBIC)
    return Preparation(frame, np.ones(3, np.float32), np.zeros(3, np.float32))


def _open(
    graph: Path | bytes,
    threads: int,
    preparation: Callable[[Size | None], Preparation],
    labels: Sequence[str],
) -> BatchedClassifier:
    def read(inputs: Mapping[str, Input]) -> tuple[Layout, Preparation]:
        layout = Layout.of(inputs)
        return layout, _fitting(preparation(layout.size), layout.size)

    def example(inputs: Mapping[str, Input]) -> Feed:
        layout, prepare = read(inputs)
        return layout.feed([_blank(prepare.frame)] * (layout.batch or 2), prepare)

    session = open_session(graph, threads, example)
    layout, prepare = read(session.inputs)
    most = _ACCELERATED_CALL_PICTURES if session.accelerated else _CALL_PICTURES
    return BatchedClassifier(
        _Graph(session, layout, prepare),
        labels=labels,
        frame=prepare.frame,
        hardware=session.hardware,
        limit=layout.batch or most,
        threads=session.calls,
    )


def _fitting(prepare: Preparation, size: Size | None) -> Preparation:
    crop = prepare.frame.crop
    if size is not None and size != crop:
        raise WeightsError(
            f"the graph reads pictures of {size[1]} x {size[0]} pixels, and the files beside it"
            f" prepare {crop[1]} x {crop[0]}"
        )
    return prepare


def _blank(frame: Frame) -> Pixels:
    return np.zeros((*frame.crop, 3), np.uint8)


class _Graph:
    """Pictures in, probabilities out."""

    def __init__(self, session: Session, layout: Layout, prepare: Preparation) -> None:
        self._session = session
        self._layout = layout
        self._prepare = prepare
        self._output = next(
            (name for name in ("probabilities", "logits") if name in session.outputs),
            session.outputs[0],
        )
        self._as_they_are = self._gives_probabilities()

    def __call__(self, pictures: Sequence[Pixels]) -> Floats:
        size = self._layout.batch or len(pictures)
        parts = [self._run(pictures[at : at + size], size) for at in range(0, len(pictures), size)]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found if self._as_they_are else softmax(found)

    def _run(self, pictures: Sequence[Pixels], size: int) -> Floats:
        filled = [*pictures, *[pictures[0]] * (size - len(pictures))]
        found = self._session.run(self._output, self._layout.feed(filled, self._prepare))
        return found[: len(pictures)].reshape(len(pictures), -1).astype(np.float32, copy=False)

    def _gives_probabilities(self) -> bool:
        """Look at what it says of two pictures: hardly ever do logits sum to 1 for both."""
        blank = _blank(self._prepare.frame)
        noise = np.random.default_rng(1).integers(0, 256, blank.shape, np.uint8)
        self._as_they_are = True
        found = self([blank, noise])
        return bool(found.min() >= 0 and np.allclose(found.sum(axis=1), 1, atol=_TOLERANCE))
