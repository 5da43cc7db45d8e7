import json
from pathlib import Path

import pytest

from tests.cli.conftest import Galley


def test_explain_says_where_each_value_comes_from_and_hides_secrets(
    galley: Galley, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_PORT", "9000")
    monkeypatch.setenv("GALLEY_DATABASE_URL", "postgresql://me:hunter2@db/galley")
    (data_dir / "galley.toml").write_text("log_level = 'debug'\n")

    shown = galley("config", "explain", "--json")

    rows = {row["name"]: (row["value"], row["source"]) for row in json.loads(shown.stdout)}
    assert rows["port"] == ("9000", "GALLEY_PORT")
    assert rows["log_level"] == ("debug", str(data_dir / "galley.toml"))
    assert rows["host"] == ("127.0.0.1", "default")
    assert rows["database_url"] == ("postgresql://me:***@db/galley", "GALLEY_DATABASE_URL")
    assert "hunter2" not in shown.output


def test_explain_prints_a_table(galley: Galley) -> None:
    shown = galley("config", "explain")

    assert shown.exit_code == 0
    assert ["port", "8000", "default"] in [line.split() for line in shown.stdout.splitlines()]


def test_path_names_the_toml_file(galley: Galley, data_dir: Path) -> None:
    assert galley("config", "path").stdout == f"{data_dir / 'galley.toml'}\n"


def test_a_data_dir_of_the_command_line_wins(galley: Galley, tmp_path: Path) -> None:
    shown = galley("config", "path", "--data-dir", tmp_path / "other")

    assert shown.stdout == f"{tmp_path / 'other' / 'galley.toml'}\n"


@pytest.mark.parametrize(
    "words", [("config", "explain"), ("config", "path"), ("keys", "create", "--local")]
)
def test_a_setting_that_nobody_knows_is_one_clear_line_and_exit_code_2(
    galley: Galley, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLEY_HOTS", "127.0.0.1")

    shown = galley(*words)

    assert shown.exit_code == 2
    assert "Nearest: 'GALLEY_HOST'" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
