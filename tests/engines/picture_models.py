"""Small image classifiers, made on the spot: they tell the means of a picture's colours."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from tests.engines.sentence_models import write_json

# What an exported classifier says of its pictures unless a test says otherwise.
PREPARATION: dict[str, Any] = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
COLOURS = ("red", "green", "blue", "infrared")


def write_graph(
    path: Path,
    *,
    side: int | str = 16,
    kind: int = TensorProto.FLOAT,
    channels_last: bool = False,
    channels: int | str = 3,
    batch: int | str = "batch",
    output: str = "logits",
    flat: bool = True,
    softmax: bool = False,
    own_norm: bool = False,
) -> None:
    """Write a graph that gives the means of red, green and blue.

    Args:
        flat: or with two dimensions of length 1 at the end.
        softmax: of the means.
        own_norm: it takes bytes, and does `(x / 255 - 0.5) / 0.25` itself.
    """
    nodes: list[NodeProto] = [helper.make_node("Cast", ["x"], ["x0"], to=TensorProto.FLOAT)]
    last = "x0"
    if own_norm:
        nodes.append(helper.make_node("Mul", [last, "scale"], ["x1"]))
        nodes.append(helper.make_node("Sub", ["x1", "shift"], ["x2"]))
        last = "x2"
    axes = [1, 2] if channels_last else [2, 3]
    nodes.append(helper.make_node("ReduceMean", [last], ["means"], axes=axes, keepdims=not flat))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["means"], [output], axis=1))
    else:
        nodes.append(helper.make_node("Identity", ["means"], [output]))
    shape: list[Any] = (
        [batch, side, side, channels] if channels_last else [batch, channels, side, side]
    )
    made: list[Any] = [batch, 3] if flat else [batch, None, None, None]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, made)],
        [
            numpy_helper.from_array(np.array(4 / 255, np.float32), "scale"),
            numpy_helper.from_array(np.array(2, np.float32), "shift"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_export(
    folder: Path, *, labels: int = 3, preparation: dict[str, Any] | None = None, **graph: Any
) -> Path:
    """Write a classifier's folder, as Hugging Face's exporter does."""
    write_graph(folder / "model.onnx", **graph)
    write_json(folder / "config.json", {"id2label": dict(enumerate(COLOURS[:labels]))})
    write_json(folder / "preprocessor_config.json", PREPARATION | (preparation or {}))
    return folder


def png(colour: Sequence[int], size: tuple[int, int] = (60, 40)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, (colour[0], colour[1], colour[2])).save(file, "PNG")
    return file.getvalue()


def expected(colour: Sequence[float]) -> NDArray[np.float64]:
    """What a classifier prepared as `PREPARATION` says makes of a colour."""
    return softmax((np.array(colour) / 255 - 0.5) / 0.25)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn any numbers into probabilities."""
    return np.exp(logits) / np.exp(logits).sum()
