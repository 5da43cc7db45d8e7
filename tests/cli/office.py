"""A running server without models, and the command line that finds it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import Result

from galley.core.security import make_key
from tests.cli.conftest import Galley
from tests.cli.program import Serving, environment, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One for the tests of a file, in a process of its own, so that its log is elsewhere."""
    folder = tmp_path_factory.mktemp("office")
    env = environment(folder, embedded_models=False, bootstrap_key=make_key())
    with serve(env=env, folder=folder) as server:
        yield server


@pytest.fixture
def admins(server: Serving, galley: Galley, monkeypatch: pytest.MonkeyPatch) -> Galley:
    """The command line of the server's admin."""
    monkeypatch.setenv("GALLEY_BASE_URL", server.base_url)
    monkeypatch.setenv("GALLEY_API_KEY", server.env["GALLEY_BOOTSTRAP_KEY"])
    return galley


def read(result: Result) -> Any:
    """The JSON that a command printed."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
