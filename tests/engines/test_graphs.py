import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from galley.engines.graphs import BertShape, bert, efficientnet_lite0, kept
from galley.engines.weights import WeightsError


class Builder:
    """Builds a graph of one node, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self) -> ModelProto:
        self.built += 1
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
        node = helper.make_node("Identity", ["x"], ["y"])
        return helper.make_model(
            helper.make_graph([node], "one", [value], [output]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )


def runs(graph: Path | bytes) -> bool:
    source = str(graph) if isinstance(graph, Path) else graph
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    given = np.array([1, 2], np.float32)
    return np.array_equal(np.asarray(session.run(None, {"x": given})[0]), given)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_a_graph_is_built_once_and_then_read_from_its_file(weights: Path) -> None:
    build = Builder()

    first, second = kept(weights, "", build), kept(weights, "", build)

    assert build.built == 1
    assert first == second
    assert runs(first)


def _grow(weights: Path) -> str:
    weights.write_bytes(b"other weights")
    return ""


def _touch(weights: Path) -> str:
    os.utime(weights, ns=(1, 1))
    return ""


def _reshape(_: Path) -> str:
    return "other shape"


@pytest.mark.parametrize("change", [_grow, _touch, _reshape])
def test_a_graph_is_built_anew_when_what_it_is_made_of_changed(
    change: Callable[[Path], str], weights: Path
) -> None:
    build = Builder()
    old = kept(weights, "", build)

    new = kept(weights, change(weights), build)

    assert build.built == 2
    assert new != old
    assert isinstance(new, Path)
    assert set(weights.parent.iterdir()) == {weights, new.parent}


def test_the_file_name_says_which_format_the_graph_has(weights: Path) -> None:
    path = kept(weights, "", Builder())

    assert isinstance(path, Path)
    assert path.parent.name.startswith("model.safetensors.galley-v2-")


def test_where_the_file_cannot_be_written_the_graph_itself_comes_back(weights: Path) -> None:
    blocked = kept(weights, "", Builder())
    assert isinstance(blocked, Path)
    shutil.rmtree(blocked.parent)
    blocked.parent.write_text("in the way")  # no folder can be renamed to this, not even by root

    found = kept(weights, "", Builder())

    assert isinstance(found, bytes)
    assert runs(found)
    assert set(weights.parent.iterdir()) == {weights, blocked.parent}


def test_a_build_that_fails_leaves_no_file(weights: Path) -> None:
    def fail() -> ModelProto:
        raise WeightsError("the weights lack something")

    with pytest.raises(WeightsError):
        kept(weights, "", fail)

    assert list(weights.parent.iterdir()) == [weights]


def test_weights_of_another_model_are_refused_with_the_name_of_what_they_lack() -> None:
    with pytest.raises(WeightsError, match=r"_conv_stem\.weight"):
        efficientnet_lite0({})
    with pytest.raises(WeightsError, match=r"embeddings\.position_embeddings\.weight"):
        bert({}, BertShape(layers=1, heads=1, epsilon=1e-12, pooling="mean"))
