"""Sentence vectors on ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from galley.engines.base import Floats
from galley.engines.batched_embedder import BatchedEmbedder, padded
from galley.engines.graphs import bert, kept
from galley.engines.onnx_session import Feed, Input, Session, open_session
from galley.engines.sentence_files import Pooling, SentenceFiles, WordPieces
from galley.engines.weights import WeightsError, read_safetensors

# What one call of the model takes: about 35 ms of a core, which is how long others wait.
_CALL_TOKENS = 256
_ACCELERATED_CALL_TOKENS = 16_384
# Rows in one run of the graph: more is no faster on a CPU, and pads more.
_ROWS = 16
_ACCELERATED_ROWS = 256
_NEEDED = {"input_ids", "attention_mask"}
_KNOWN = _NEEDED | {"token_type_ids"}
_TYPES: dict[str, type[np.generic]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


def open_embedder(path: Path, threads: int) -> "OnnxEmbedder":
    """Load a sentence encoder. Blocks; the first time, it builds the graph.

    Args:
        path: a folder with `tokenizer.json` and either `model.onnx`, or `model.safetensors` and
            `config.json` of a BERT.
        threads: of the CPU; 0 takes every core.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """
    files = SentenceFiles.read(path.parent if path.is_file() else path)
    if (exported := files.folder / "model.onnx").exists():
        graph: Path | bytes = exported
    else:
        weights, shape = files.folder / "model.safetensors", files.bert_shape()
        graph = kept(weights, repr(shape), lambda: bert(read_safetensors(weights), shape))
    rows = [[files.pieces.padding] * 32] * 8
    session = open_session(graph, threads, lambda inputs: _feed(inputs, rows, files.pieces.padding))
    return OnnxEmbedder(session, files.pieces, files.pooling)


class OnnxEmbedder(BatchedEmbedder):
    """An `Embedder`; made by `open_embedder`."""

    def __init__(self, session: Session, pieces: WordPieces, pooling: Pooling) -> None:
        output = _choose_output(session)

        def vectors(rows: Sequence[Sequence[int]]) -> Floats:
            feed = _feed(session.inputs, rows, pieces.padding)
            found = session.run(output, feed)
            return found if found.ndim == 2 else _pooled(found, feed["attention_mask"], pooling)

        super().__init__(
            vectors,
            pieces,
            hardware=session.hardware,
            limit=_ACCELERATED_CALL_TOKENS if session.accelerated else _CALL_TOKENS,
            rows=_ACCELERATED_ROWS if session.accelerated else _ROWS,
            threads=session.calls,
        )


def _choose_output(session: Session) -> str:
    for name in ("sentence_embedding", "last_hidden_state", "token_embeddings"):
        if name in session.outputs:
            return name
    raise WeightsError(
        f"model.onnx gives {', '.join(session.outputs)};"
        " needed is sentence_embedding or last_hidden_state"
    )


def _feed(inputs: Mapping[str, Input], rows: Sequence[Sequence[int]], padding: int) -> Feed:
    kinds = {given.type for given in inputs.values()}
    if not _NEEDED <= set(inputs) <= _KNOWN or not kinds <= set(_TYPES):
        asked = ", ".join(f"{name} as {given.type}" for name, given in inputs.items())
        raise WeightsError(f"model.onnx asks for {asked}; needed are input_ids and attention_mask")
    ids, mask = padded(rows, padding)
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {
        name: arrays[name].astype(_TYPES[given.type], copy=False) for name, given in inputs.items()
    }


def _pooled(states: NDArray[Any], mask: NDArray[Any], pooling: Pooling) -> Floats:
    if pooling == "cls":
        return cast(Floats, states[:, 0])
    weights = mask[:, :, None].astype(np.float32)
    return (states * weights).sum(axis=1) / weights.sum(axis=1)
