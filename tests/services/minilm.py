"""The embedded sentence model, loaded once for all tests that compare texts."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest

from galley.core.catalogue import EMBEDDED_MODELS
from galley.engines.onnx_embedder import OnnxEmbedder, open_embedder
from galley.services.sources import find


def open_minilm(models_dir: Path) -> OnnxEmbedder:
    """Load it; to be closed."""
    name = "all-minilm-l6-v2"
    folder = find(name, EMBEDDED_MODELS[name], models_dir)
    assert folder is not None
    return open_embedder(folder, 1)


@pytest.fixture(scope="session")
def minilm(models_dir: Path) -> Generator[OnnxEmbedder]:
    """The same for everybody."""
    embedder = open_minilm(models_dir)
    yield embedder
    asyncio.run(embedder.aclose())
