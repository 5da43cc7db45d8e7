"""A raw llama-server on a port of its own, with the embedded model's weights."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from galley.core.catalogue import EMBEDDED_MODELS
from galley.services.sources import fetch

SECRET = "a-secret-of-its-own"


@contextmanager
def raw_reranker(models_dir: Path) -> Generator[str]:
    """Run one that reranks; else as `raw_llama_server`."""
    name = "smollm2-135m-instruct"
    weights = fetch(name, EMBEDDED_MODELS[name], models_dir)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.llama_reranker", str(weights), SECRET],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip() + "/v1"
        finally:
            process.stdin.close()


@contextmanager
def raw_llama_server(models_dir: Path) -> Generator[str]:
    """Run it until the block ends; gives the base URL of its API, which `SECRET` opens."""
    name = "smollm2-135m-instruct"
    weights = fetch(name, EMBEDDED_MODELS[name], models_dir)
    wanted = {
        "name": "smollm2", "path": str(weights), "secret": SECRET,
        "slots": 2, "context": 2048, "threads": 1, "gpu_layers": 0,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "galley.engines.llama_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        try:
            yield json.loads(process.stdout.readline())["url"] + "/v1"
        finally:
            process.stdin.close()
