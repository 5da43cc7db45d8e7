"""What every test may ask for."""

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from galley.core.catalogue import EMBEDDED_MODELS
from galley.services.sources import fetch_all
from tests.serving import LiveServer, make_settings, serving

CACHE = Path(__file__).parent.parent / ".cache"

# The same examples on every run. To search on: pytest --hypothesis-profile=thorough
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("repeatable")


# A job that a script runs in the background ignores Ctrl-C, and so would every program we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where the embedded models are; fetched once for all tests and all workers."""
    path = CACHE / "models"
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / ".tests.lock"):
        fetch_all(EMBEDDED_MODELS, path)
    return path


@pytest.fixture(scope="session")
def live_server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server per worker, its models loaded; for tests that leave it as they found it."""
    settings = make_settings(tmp_path_factory.mktemp("live"), models_dir)
    with serving(settings) as server:
        server.until_ready()
        yield server
