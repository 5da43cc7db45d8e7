import json
from pathlib import Path

import pytest

from tests.cli.conftest import Galley
from tests.cli.program import environment, run, serve


@pytest.mark.parametrize("words", [("create",), ("list",), ("revoke", "x")])
def test_before_the_first_start_there_is_one_line_with_the_next_step(
    words: tuple[str, ...], galley: Galley, data_dir: Path
) -> None:
    shown = galley("key", *words)

    assert shown.exit_code == 1
    assert "Start the server once: galley serve" in shown.stderr
    assert list(data_dir.iterdir()) == []


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server that has run once and is gone."""
    folder = tmp_path_factory.mktemp("stopped")
    env = environment(folder, embedded_models=False)
    with serve(env=env, folder=folder):
        pass
    return env


def test_keys_can_be_made_and_listed_while_no_server_runs(stopped: dict[str, str]) -> None:
    made = run("key", "create", "--name", "for [b]later", env=stopped).stdout.strip()
    listed = run("key", "list", env=stopped).stdout

    assert f"{made[:7]}...{made[-4:]}" in listed
    assert "for [b]later" in listed
    assert made not in listed


def test_a_revoked_key_is_listed_as_such_and_revoked_once(stopped: dict[str, str]) -> None:
    key_id = json.loads(run("key", "create", "--json", env=stopped).stdout)["id"]
    first = run("key", "revoke", key_id, env=stopped)
    second = run("key", "revoke", key_id, env=stopped)
    listed = json.loads(run("key", "list", "--json", env=stopped).stdout)

    assert first.returncode == 0
    assert second.returncode == 1
    assert "`galley key list` shows those there are" in second.stderr
    assert [key["id"] for key in listed if key["revoked_at"]] == [key_id]
