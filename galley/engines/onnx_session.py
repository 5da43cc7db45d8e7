"""Open an ONNX Runtime session on the best hardware that this machine and its wheel have."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from galley.engines.threads import available_cores
from galley.engines.weights import WeightsError

Feed = Mapping[str, NDArray[Any]]

_CPU = "CPUExecutionProvider"
_ACCELERATORS = {"CUDAExecutionProvider": "CUDA", "CoreMLExecutionProvider": "CoreML"}
# An accelerator may compute in half precision; further off than this it is broken.
_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Input:
    """What a graph reads: its type in ONNX Runtime's words, and its shape; None is any length."""

    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded graph, its inputs by name, and where it runs, in words.

    `calls` is how many runs at the same time the hardware is meant for.
    """

    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    hardware: str
    accelerated: bool
    calls: int
    _session: ort.InferenceSession

    def run(self, output: str, feed: Feed) -> NDArray[Any]:
        """Compute one output."""
        return np.asarray(self._session.run([output], dict(feed))[0])


def open_session(
    graph: Path | bytes, threads: int, example: Callable[[Mapping[str, Input]], Feed]
) -> Session:
    """Load a graph.

    An accelerator is taken when it is there, computes what the CPU computes, and is faster.

    Args:
        threads: of the CPU, for all runs together; 0 takes every core.
        example: makes a typical feed for the inputs.
    Raises:
        WeightsError: ONNX Runtime cannot load the graph.
    """
    threads = threads or available_cores()
    # Side by side, runs of few threads get more done; more threads make a lone run faster.
    calls = threads // math.isqrt(threads)
    name = graph.name if isinstance(graph, Path) else "the graph"
    try:
        cpu = _open(graph, threads - calls + 1, _CPU)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise WeightsError(f"{name} cannot be loaded by ONNX Runtime: {error}") from error
    feed = example(_inputs(cpu))
    try:
        cpu.run(None, dict(feed))
    except Exception as error:  # as above
        raise WeightsError(f"{name} does not fit the files beside it: {error}") from error
    for provider in ort.get_available_providers():
        if provider in _ACCELERATORS and (fast := _accelerate(graph, provider, cpu, feed)):
            return _session(fast, _ACCELERATORS[provider], accelerated=True, calls=1)
    words = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return _session(cpu, words, accelerated=False, calls=calls)


def _session(
    session: ort.InferenceSession, hardware: str, *, accelerated: bool, calls: int
) -> Session:
    outputs = tuple(output.name for output in session.get_outputs())
    return Session(_inputs(session), outputs, hardware, accelerated, calls, session)


def _inputs(session: ort.InferenceSession) -> dict[str, Input]:
    return {
        given.name: Input(
            given.type, tuple(n if isinstance(n, int) and n > 0 else None for n in given.shape)
        )
        for given in session.get_inputs()
    }


def _open(graph: Path | bytes, threads: int, provider: str) -> ort.InferenceSession:
    """Load a graph; a run counts its caller among the `threads`, and all runs share the others."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; the log is the server's
    # Waiting threads would burn the cores that the server and the other models need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(graph) if isinstance(graph, Path) else graph
    return ort.InferenceSession(source, options, providers=[provider])


def _accelerate(
    graph: Path | bytes, provider: str, cpu: ort.InferenceSession, feed: Feed
) -> ort.InferenceSession | None:
    try:
        session = _open(graph, 1, provider)
        if session.get_providers()[0] != provider:
            return None
        expected, cpu_s = _timed(cpu, feed)
        found, s = _timed(session, feed)
    except Exception:  # a broken driver can raise anything, and must not keep the server down
        return None
    agrees = all(
        np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE)
        for a, b in zip(expected, found, strict=True)
    )
    return session if agrees and s < cpu_s else None


def _timed(session: ort.InferenceSession, feed: Feed) -> tuple[list[NDArray[Any]], float]:
    session.run(None, dict(feed))  # the first run allocates and compiles
    start = time.perf_counter()
    results = session.run(None, dict(feed))
    return [np.asarray(result) for result in results], time.perf_counter() - start
