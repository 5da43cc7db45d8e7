"""What every test may ask for."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.nodeid import coerce_node_id
from filelock import FileLock

from galley.core.catalogue import EMBEDDED_MODELS
from galley.services.sources import fetch_all
from tests.serving import LiveServer, make_settings, serving

pytest_plugins = ["tests.databases", "tests.redis_server"]

CACHE = Path(__file__).parent.parent / ".cache"

# The same examples on every run, and more of them in `make test-all`.
# To search on: pytest --hypothesis-profile=thorough
for name, examples in {"quick": 25, "repeatable": 100}.items():
    hypothesis.settings.register_profile(
        name, derandomize=True, deadline=None, max_examples=examples, database=None
    )
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("quick")


# To collect the tests makes 700,000 objects that stay until the end. Looking through them again and
# again was a quarter of all that the tests cost.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
    gc.enable()


# A job that a script runs in the background ignores Ctrl-C, and so would every program we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep those who share something of their file on one worker; else each makes its own."""
    if not hasattr(config, "workerinput"):  # no worker of pytest-xdist
        return
    for item in items:
        if group := _group(item):
            # pytest-xdist 3.8 writes the group where pytest 9.2 no longer looks for it.
            item._id = coerce_node_id(f"{item.nodeid}@{group}")


def _group(item: pytest.Item) -> str | None:
    assert isinstance(item, pytest.Function)
    if marked := item.get_closest_marker("xdist_group"):
        return marked.args[0]
    definitions = item._fixtureinfo.name2fixturedefs.values()
    shares = any(found[-1].scope == "module" for found in definitions)
    return item.path.stem if shares else None


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
