"""ONNX graphs built straight from published weights: no torch, no exporter.

A graph is built at the first start and kept as a file beside its weights.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from galley.engines.weights import Weights, WeightsError

# Part of the cached file's name: raise it with every change to what is built here.
FORMAT = 2
_GRAPH = "graph.onnx"

# (repeats, stride of the first, expand ratio, output channels): EfficientNet-B0's table; Lite
# drops squeeze-and-excite. The kernel's size is read off the weights.
_LITE0_BLOCKS = [
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
]
_LITE0_SIDE = 224


@dataclass(frozen=True, slots=True)
class BertShape:
    """What a BERT's weights do not say by themselves."""

    layers: int
    heads: int
    epsilon: float
    pooling: Literal["mean", "cls"]


def kept(weights: Path, shape: str, build: Callable[[], ModelProto]) -> Path | bytes:
    """Return the graph's file, building it where it is not there yet.

    Its numbers are in a file of their own, which ONNX Runtime maps into memory instead of
    reading it: what is never looked up is never resident. Where the folder cannot be written
    to, the graph itself comes back.

    Args:
        shape: whatever else the graph depends on, in words.
    """
    stat = weights.stat()
    origin = f"{stat.st_size} {stat.st_mtime_ns} {shape}"
    digest = hashlib.sha256(origin.encode()).hexdigest()[:12]
    target = weights.with_name(f"{weights.name}.galley-v{FORMAT}-{digest}")
    if not (target / _GRAPH).is_file():
        try:
            _write(target, build())
        except OSError:
            if not (target / _GRAPH).is_file():  # or another process was faster
                return build().SerializeToString()  # anew: writing moved the numbers out
    for old in weights.parent.glob(f"{weights.name}.galley-v*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target / _GRAPH


def _write(target: Path, graph: ModelProto) -> None:
    """Write under another name, then rename: a crash never leaves half a graph."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".galley-") as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        onnx.save_model(graph, str(whole / _GRAPH), save_as_external_data=True, location="weights")
        for file in whole.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        whole.rename(target)


class _Graph:
    """Collects nodes and weights; every method returns the name of what it made."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def weight(self, name: str) -> NDArray[np.float32]:
        if name not in self._weights:
            raise WeightsError(f"the weights lack {name!r}")
        return np.asarray(self._weights[name], np.float32)

    def op(
        self, kind: str, *inputs: str | NDArray[Any], domain: str = "", **attributes: Any
    ) -> str:
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], domain=domain, **attributes))
        return output

    def fused(self, kind: str, *inputs: str | NDArray[Any], **attributes: Any) -> str:
        """One of ONNX Runtime's own operators, which join several standard ones."""
        return self.op(kind, *inputs, domain="com.microsoft", **attributes)

    def model(
        self, inputs: Mapping[str, tuple[int, list[Any]]], result: str, output: str, shape: Any
    ) -> ModelProto:
        self._nodes.append(helper.make_node("Identity", [result], [output]))
        graph = helper.make_graph(
            self._nodes,
            "galley",
            [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"w{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name


def efficientnet_lite0(weights: Weights) -> ModelProto:
    """Pixels (bytes, batch x 224 x 224 x 3) to class probabilities.

    Source: Tan & Le 2019, EfficientNet; the Lite variants of the TensorFlow TPU repository:
    no squeeze-and-excite, ReLU6, stem and head not scaled, (x - 127) / 128.
    """
    g = _Graph(weights)
    x = g.op("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.op("Div", g.op("Sub", x, np.array(127, np.float32)), np.array(128, np.float32))
    x = g.op("Transpose", x, perm=[0, 3, 1, 2])
    x, side = _convolve(g, x, _LITE0_SIDE, "_conv_stem", "_bn0", stride=2)
    index, channels = 0, 32
    for repeats, stride, expand, wanted in _LITE0_BLOCKS:
        for repeat in range(repeats):
            first = stride if repeat == 0 else 1
            y, side = _block(g, x, side, f"_blocks.{index}", first, expand=expand != 1)
            x = g.op("Add", y, x) if first == 1 and channels == wanted else y
            index, channels = index + 1, wanted
    x, side = _convolve(g, x, side, "_conv_head", "_bn1")
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    x = g.op("Gemm", x, g.weight("_fc.weight"), g.weight("_fc.bias"), transB=1)
    x = g.op("Softmax", x, axis=-1)
    pixels = (TensorProto.UINT8, ["batch", _LITE0_SIDE, _LITE0_SIDE, 3])
    return g.model({"pixels": pixels}, x, "probabilities", ["batch", len(g.weight("_fc.bias"))])


def _block(
    g: _Graph, x: str, side: int, name: str, stride: int, *, expand: bool
) -> tuple[str, int]:
    if expand:
        x, side = _convolve(g, x, side, f"{name}._expand_conv", f"{name}._bn0")
    x, side = _convolve(
        g, x, side, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True
    )
    return _convolve(g, x, side, f"{name}._project_conv", f"{name}._bn2", relu=False)


def _convolve(
    g: _Graph,
    x: str,
    side: int,
    name: str,
    norm: str,
    *,
    stride: int = 1,
    depthwise: bool = False,
    relu: bool = True,
) -> tuple[str, int]:
    """Convolution, batch norm and ReLU6; the norm is folded into the filter."""
    filters = g.weight(f"{name}.weight")
    scale = g.weight(f"{norm}.weight") / np.sqrt(g.weight(f"{norm}.running_var") + 1e-3)
    bias = g.weight(f"{norm}.bias") - g.weight(f"{norm}.running_mean") * scale
    kernel = filters.shape[-1]
    after = -(-side // stride)
    # TensorFlow's SAME: what is odd goes to the end.
    pad = max((after - 1) * stride + kernel - side, 0)
    x = g.op(
        "Conv",
        x,
        (filters * scale[:, None, None, None]).astype(np.float32),
        bias.astype(np.float32),
        strides=[stride, stride],
        pads=[pad // 2, pad // 2, pad - pad // 2, pad - pad // 2],
        group=filters.shape[0] if depthwise else 1,
    )
    if relu:
        x = g.op("Clip", x, np.array(0, np.float32), np.array(6, np.float32))
    return x, after


def bert(weights: Weights, shape: BertShape) -> ModelProto:
    """Token ids and mask to one vector per text, not yet at unit length.

    Source: Devlin et al. 2018, BERT; Reimers & Gurevych 2019, Sentence-BERT, section 3.
    """
    # A checkpoint of a model with a head has its encoder under `bert.`.
    weights = {name.removeprefix("bert."): array for name, array in weights.items()}
    g = _Graph(weights)
    x = _embeddings(g, shape.epsilon)
    mask = g.op("Cast", "attention_mask", to=TensorProto.INT32)
    for number in range(shape.layers):
        x = _encoder_layer(g, x, mask, f"encoder.layer.{number}.", shape)
    x = _mean(g, x) if shape.pooling == "mean" else g.op("Gather", x, np.array(0), axis=1)
    ids: tuple[int, list[Any]] = (TensorProto.INT64, ["batch", "length"])
    width = g.weight("embeddings.word_embeddings.weight").shape[1]
    inputs = {"input_ids": ids, "attention_mask": ids}
    return g.model(inputs, x, "sentence_embedding", ["batch", width])


def _embeddings(g: _Graph, epsilon: float) -> str:
    # All of a text is the first segment: its vector is constant, so it joins the positions'.
    places = g.weight("embeddings.position_embeddings.weight")
    places = places + g.weight("embeddings.token_type_embeddings.weight")[0]
    length = g.op("Gather", g.op("Shape", "input_ids"), _int64(1))
    places = g.op("Slice", places, _int64(0), length, _int64(0))
    words = g.op("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids")
    scale, bias = _norm(g, "embeddings.LayerNorm")
    return g.op("LayerNormalization", g.op("Add", words, places), scale, bias, epsilon=epsilon)


def _encoder_layer(g: _Graph, x: str, mask: str, name: str, shape: BertShape) -> str:
    parts = [f"{name}attention.self.{part}." for part in ("query", "key", "value")]
    joined = np.concatenate([g.weight(f"{part}weight").T for part in parts], axis=1)
    bias = np.concatenate([g.weight(f"{part}bias") for part in parts])
    y = g.fused("Attention", x, joined, bias, mask, num_heads=shape.heads)
    x = _add_and_norm(g, y, x, f"{name}attention.output.", shape.epsilon)
    y = g.op("MatMul", x, g.weight(f"{name}intermediate.dense.weight").T)
    y = g.fused("BiasGelu", y, g.weight(f"{name}intermediate.dense.bias"))
    return _add_and_norm(g, y, x, f"{name}output.", shape.epsilon)


def _add_and_norm(g: _Graph, y: str, x: str, name: str, epsilon: float) -> str:
    y = g.op("MatMul", y, g.weight(f"{name}dense.weight").T)
    bias = g.weight(f"{name}dense.bias")
    return g.fused(
        "SkipLayerNormalization", y, x, *_norm(g, f"{name}LayerNorm"), bias, epsilon=epsilon
    )


def _mean(g: _Graph, x: str) -> str:
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.op("Unsqueeze", mask, _int64(2))
    total = g.op("ReduceSum", g.op("Mul", x, mask), _int64(1), keepdims=0)
    return g.op("Div", total, g.op("ReduceSum", mask, _int64(1), keepdims=0))


def _norm(g: _Graph, name: str) -> Sequence[NDArray[np.float32]]:
    return g.weight(f"{name}.weight"), g.weight(f"{name}.bias")


def _int64(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)
