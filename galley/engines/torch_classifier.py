"""Image classification by transformers on torch."""

from collections.abc import Sequence
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports] - comes with the extra

from galley.engines.base import Floats
from galley.engines.batched_classifier import BatchedClassifier, Pixels
from galley.engines.picture_files import PictureFiles
from galley.engines.torch_models import accelerated, hardware, load

_CALL_PICTURES = 8
_ACCELERATED_CALL_PICTURES = 64


def open_classifier(folder: Path, threads: int) -> BatchedClassifier:
    """Load an image classifier. Blocks.

    Args:
        folder: as transformers writes it: `config.json`, `model.safetensors`, and the files that
            `PictureFiles` reads.
        threads: of the CPU; 0 takes every core.
    Raises:
        WeightsError: a file is missing, damaged, or of a model that is not supported.
    """
    files = PictureFiles.read(folder)
    labels, prepare = files.labels(), files.preparation()
    model = load("AutoModelForImageClassification", folder, threads)

    def probabilities(pictures: Sequence[Pixels]) -> Floats:
        pixels = torch.from_numpy(prepare.normed(pictures)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits
            return logits.float().softmax(dim=-1).cpu().numpy()

    return BatchedClassifier(
        probabilities,
        labels=labels,
        frame=prepare.frame,
        hardware=hardware(model),
        limit=_ACCELERATED_CALL_PICTURES if accelerated(model) else _CALL_PICTURES,
        threads=1,
    )
