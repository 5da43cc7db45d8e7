import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from galley.engines.onnx_session import Feed, Input, open_session
from galley.engines.weights import WeightsError


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A graph that adds `x` to itself."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    output = helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Add", ["x", "x"], ["twice"])
    graph = helper.make_graph([node], "twice", [value], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def running_threads() -> set[int]:
    return {thread.id for thread in psutil.Process().threads()}


def example(_: Mapping[str, Input]) -> Feed:
    return {"x": np.array([1, 2], np.float32)}


@pytest.mark.parametrize(
    ("threads", "calls", "words"),
    [
        (1, 1, "CPU, 1 thread"),
        (2, 2, "CPU, 2 threads"),
        (4, 2, "CPU, 4 threads"),
        (8, 4, "CPU, 8 threads"),
    ],
)
def test_it_says_where_it_runs_on_how_many_threads_and_how_many_runs_share_them(
    threads: int, calls: int, words: str, doubling: Path
) -> None:
    session = open_session(doubling, threads, example)

    assert (session.hardware, session.calls) == (words, calls)
    assert not session.accelerated


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8, 16])
def test_its_own_threads_and_those_of_its_callers_are_as_many_as_it_says(
    threads: int, doubling: Path
) -> None:
    before = running_threads()

    session = open_session(doubling, threads, example)

    assert len(running_threads() - before) + session.calls == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins threads to cores")
def test_zero_threads_take_the_cores_that_are_ours(doubling: Path) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        session = open_session(doubling, 0, example)
    finally:
        os.sched_setaffinity(0, cores)

    assert session.hardware == "CPU, 1 thread"


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_graph_runs_from_its_file_and_from_memory(as_bytes: bool, doubling: Path) -> None:
    session = open_session(doubling.read_bytes() if as_bytes else doubling, 1, example)

    assert session.run("twice", {"x": np.array([4, 5], np.float32)}).tolist() == [8, 10]
    assert dict(session.inputs) == {"x": Input("tensor(float)", (None,))}
    assert session.outputs == ("twice",)


def test_the_example_is_made_from_what_the_graph_asks_for(doubling: Path) -> None:
    asked: list[dict[str, Input]] = []

    def note(inputs: Mapping[str, Input]) -> Feed:
        asked.append(dict(inputs))
        return example(inputs)

    open_session(doubling, 1, note)

    assert asked == [{"x": Input("tensor(float)", (None,))}]


def test_a_damaged_graph_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")

    with pytest.raises(WeightsError, match=r"model\.onnx cannot be loaded"):
        open_session(path, 1, example)


OPENING = """
import sys
from pathlib import Path

import numpy as np

from galley.engines.onnx_session import open_session

session = open_session(Path(sys.argv[1]), 1, lambda _: {"x": np.array([1, 2], np.float32)})
assert session.run("twice", {"x": np.array([4], np.float32)}).tolist() == [8]
"""


def test_onnx_runtime_keeps_no_record_to_send_to_its_makers(doubling: Path, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary)}

    subprocess.run([sys.executable, "-c", OPENING, str(doubling)], env=own, check=True)

    assert [*home.rglob("*"), *temporary.rglob("*")] == []
