"""Sentence vectors on ONNX Runtime."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from galley.core.errors import OverloadedError
from galley.engines.base import Begun, Embedded, Floats
from galley.engines.batching import Batcher
from galley.engines.graphs import bert, kept
from galley.engines.onnx_session import Feed, Session, open_session
from galley.engines.sentence_files import Pooling, SentenceFiles, WordPieces
from galley.engines.weights import WeightsError, read_safetensors

# What one call of the model takes: about 35 ms of a core, which is how long others wait.
_CALL_TOKENS = 256
_ACCELERATED_CALL_TOKENS = 16_384
# Rows in one run of the graph: more is no faster on a CPU, and pads more.
_ROWS = 16
_ACCELERATED_ROWS = 256
# Less text than this is tokenised sooner than another thread is woken.
_INLINE_CHARACTERS = 2_000
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


class OnnxEmbedder:
    """An `Embedder`; made by `open_embedder`."""

    problem: str | None = None

    def __init__(self, session: Session, pieces: WordPieces, pooling: Pooling) -> None:
        self.hardware = session.hardware
        self.max_tokens = pieces.max_tokens
        self._session = session
        self._pieces = pieces
        self._pooling: Pooling = pooling
        self._output = _choose_output(session)
        self._rows = _ACCELERATED_ROWS if session.accelerated else _ROWS
        self.dimensions = self._vectors([[pieces.padding]]).shape[1]
        self._tokenising = ThreadPoolExecutor(2, "galley-tokenise")
        self._batcher: Batcher[Sequence[int]] = Batcher(
            self._vectors,
            name="galley-embed",
            limit=_ACCELERATED_CALL_TOKENS if session.accelerated else _CALL_TOKENS,
            weigh=len,
            threads=session.calls,
        )

    async def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        begun: Begun | None = None,
    ) -> Embedded:
        if self.problem:
            raise OverloadedError("The model is shut down.")
        if sum(map(len, inputs)) <= _INLINE_CHARACTERS:
            rows = self._pieces.rows(inputs, truncate=truncate)
        else:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._tokenising, lambda: self._pieces.rows(inputs, truncate=truncate)
            )
        # Neighbours of one length share a run of the graph, with nothing to pad.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batched = await self._batcher([rows[i] for i in order], begun)
        vectors = np.empty_like(batched.rows)
        vectors[order] = batched.rows
        return Embedded(vectors, sum(map(len, rows)))

    async def token_starts(self, text: str) -> NDArray[np.int32]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenising, self._pieces.starts, text)

    async def aclose(self) -> None:
        self.problem = "shut down"
        self._tokenising.shutdown(wait=False)
        await self._batcher.close()

    def _vectors(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Compute one call of the model, in as many runs as the lengths ask for."""
        parts: list[Floats] = []
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for group in _groups([len(rows[i]) for i in order], self._rows):
            feed = _feed(
                self._session.inputs, [rows[i] for i in order[group]], self._pieces.padding
            )
            found = self._session.run(self._output, feed)
            parts.append(found if found.ndim == 2 else self._pooled(found, feed["attention_mask"]))
        vectors = np.empty((len(rows), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)

    def _pooled(self, states: NDArray[Any], mask: NDArray[Any]) -> Floats:
        if self._pooling == "cls":
            return cast(Floats, states[:, 0])
        weights = mask[:, :, None].astype(np.float32)
        return (states * weights).sum(axis=1) / weights.sum(axis=1)


def _choose_output(session: Session) -> str:
    for name in ("sentence_embedding", "last_hidden_state", "token_embeddings"):
        if name in session.outputs:
            return name
    raise WeightsError(
        f"model.onnx gives {', '.join(session.outputs)};"
        " needed is sentence_embedding or last_hidden_state"
    )


def _feed(inputs: Mapping[str, str], rows: Sequence[Sequence[int]], padding: int) -> Feed:
    if not _NEEDED <= set(inputs) <= _KNOWN or not set(inputs.values()) <= set(_TYPES):
        asked = ", ".join(f"{name} as {kind}" for name, kind in inputs.items())
        raise WeightsError(f"model.onnx asks for {asked}; needed are input_ids and attention_mask")
    width = max(map(len, rows))
    ids = np.full((len(rows), width), padding, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: arrays[name].astype(_TYPES[kind], copy=False) for name, kind in inputs.items()}


def _groups(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Cut sorted lengths into runs of at most `most` in which little has to be padded."""
    start = 0
    for end, length in enumerate(lengths):
        if end - start == most or length > 2 * max(lengths[start], 8):
            yield slice(start, end)
            start = end
    yield slice(start, len(lengths))
