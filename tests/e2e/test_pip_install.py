"""`pip install .` into a fresh environment, and the first start in an empty home."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from galley import __version__
from galley.client import Client
from tests.cli.program import serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOWNLOAD_S = 600.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`galley`, as pip puts it there."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=DOWNLOAD_S)
    install = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", ROOT]
    ran = subprocess.run(install, check=False, timeout=DOWNLOAD_S, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return venv / "bin" / "galley"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """What a new user has: an empty home. Only pip's configuration is the machine's own."""
    home = tmp_path / "home"
    home.mkdir()
    pip = {"XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))}
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("GALLEY_", "XDG_", "PYTHON"))}
    return kept | pip | {"HOME": str(home)}


def test_it_runs_from_any_folder(program: Path, env: dict[str, str], tmp_path: Path) -> None:
    ran = subprocess.run(
        [program, "--version"], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )

    assert __version__ in ran.stdout


def test_the_first_start_fetches_the_models_and_answers(
    program: Path, env: dict[str, str], tmp_path: Path
) -> None:
    with serve(env=env, folder=tmp_path, program=str(program), patience_s=DOWNLOAD_S) as serving:
        shown = re.search(r"API key +(gk_\w{38})", serving.until("Ready after"))
        assert shown
        with Client(serving.base_url, shown[1]) as client:
            answer = client.chat("What is FastAPI?", max_tokens=16)
            vectors = client.embed(["hello"])

    assert answer.choices[0].message.content
    assert len(vectors[0]) == 384
    assert list((tmp_path / "home").rglob("*.gguf"))
