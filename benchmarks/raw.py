"""The raw engines, in this process: ONNX Runtime on the graphs that Galley serves."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from benchmarks.servers import CLASSIFY, EMBEDDINGS, model_files
from galley.engines.onnx_classifier import open_classifier
from galley.engines.onnx_embedder import open_embedder

ROWS = 16  # texts in one run; more is no faster on a CPU
PICTURES = 8
_CORES = os.cpu_count() or 1
# Galley takes every core; what HTTP costs on a machine with a core to spare for it, the other says.
RAW = {"raw, all cores": _CORES, "raw, all cores but one": max(1, _CORES - 1)}


class RawEmbedder:
    """Texts to vectors, in runs of up to `ROWS` texts of like length."""

    def __init__(self, threads: int) -> None:
        folder = model_files()[EMBEDDINGS]
        open_embedder(folder, threads)  # builds the graph, where it is not there yet
        self._session = _session(_graph(folder), threads)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(256)

    def embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the vectors, in the order of their lengths."""
        rows = sorted((e.ids for e in self._tokenizer.encode_batch_fast(list(texts))), key=len)
        return [self._run(rows[at : at + ROWS]) for at in range(0, len(rows), ROWS)]

    def _run(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        ids, mask = np.zeros((2, len(rows), len(rows[-1])), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return np.asarray(self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


class RawClassifier:
    """Base64 pictures to probabilities; decoded on as many threads as the model has."""

    def __init__(self, threads: int) -> None:
        path = model_files()[CLASSIFY]
        open_classifier(path, threads)
        self._session = _session(_graph(path.parent), threads)
        self._input = self._session.get_inputs()[0].name
        self._decoding = ThreadPoolExecutor(threads)

    def classify(self, pictures: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the probabilities, in runs of up to `PICTURES`."""
        pixels = list(self._decoding.map(_pixels, pictures))
        return [
            np.asarray(self._session.run(None, {self._input: np.stack(part)})[0])
            for part in (pixels[at : at + PICTURES] for at in range(0, len(pixels), PICTURES))
        ]


def _session(graph: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _graph(folder: Path) -> Path:
    return max(folder.glob("*.galley-*/graph.onnx"), key=lambda path: path.stat().st_mtime)


def graphs() -> dict[str, Path]:
    """Return the graphs' files by model, for peers that run the same ones."""
    files = model_files()
    return {EMBEDDINGS: _graph(files[EMBEDDINGS]), CLASSIFY: _graph(files[CLASSIFY].parent)}


def _pixels(encoded: str) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.draft("RGB", (256, 256))
    image = image.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), 3)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))
