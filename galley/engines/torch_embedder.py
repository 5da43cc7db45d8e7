"""Sentence vectors by transformers on torch."""

from pathlib import Path

import torch  # pyright: ignore[reportMissingImports] - comes with the extra

from galley.engines.base import Floats
from galley.engines.batched_embedder import BatchedEmbedder, Rows, padded
from galley.engines.sentence_files import SentenceFiles
from galley.engines.torch_models import accelerated, hardware, load

_CALL_TOKENS, _ROWS = 512, 16
_ACCELERATED_CALL_TOKENS, _ACCELERATED_ROWS = 16_384, 256


def open_embedder(folder: Path, threads: int) -> BatchedEmbedder:
    """Load a sentence encoder. Blocks.

    Args:
        folder: as sentence-transformers writes it: `config.json`, `model.safetensors`,
            `tokenizer.json`, `1_Pooling/config.json`.
        threads: of the CPU; 0 takes every core.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """
    files = SentenceFiles.read(folder)
    files.refuse_dense()
    model = load("AutoModel", folder, threads)

    def vectors(rows: Rows) -> Floats:
        ids, mask = (
            torch.from_numpy(a).to(model.device) for a in padded(rows, files.pieces.padding)
        )
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            if files.pooling == "cls":
                return states[:, 0].cpu().numpy()
            weights = mask.unsqueeze(-1)
            return ((states * weights).sum(dim=1) / weights.sum(dim=1)).cpu().numpy()

    fast = accelerated(model)
    return BatchedEmbedder(
        vectors,
        files.pieces,
        hardware=hardware(model),
        limit=_ACCELERATED_CALL_TOKENS if fast else _CALL_TOKENS,
        rows=_ACCELERATED_ROWS if fast else _ROWS,
        threads=1,
    )
