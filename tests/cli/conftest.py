from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from galley.cli.app import app

Galley = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory, and nothing set that would say otherwise."""
    for name in ("GALLEY_BASE_URL", "GALLEY_API_KEY", "GALLEY_CONFIG", "GALLEY_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GALLEY_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def galley(data_dir: Path) -> Galley:
    """Run the command line, as `galley("chat", "hello")`; unexpected errors are raised."""
    runner = CliRunner()

    def run(*args: Any, stdin: str | None = None) -> Result:
        words = [str(arg) for arg in args]
        return runner.invoke(app, words, input=stdin, catch_exceptions=False, prog_name="galley")

    return run
