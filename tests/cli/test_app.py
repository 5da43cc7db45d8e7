import subprocess
import sys
from importlib import import_module

import pytest
from typer.main import get_command

from galley import __version__
from galley.cli.app import COMMANDS
from tests.cli.conftest import Galley

HEAVY = ("fastapi", "uvicorn", "sqlalchemy", "onnxruntime", "numpy", "xllamacpp")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_listed_with_the_first_line_of_its_own_help(name: str) -> None:
    command = get_command(import_module(f"galley.cli.{name}").app)

    assert (command.help or "").splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, galley: Galley) -> None:
    shown = galley(name, "--help")

    assert shown.exit_code == 0
    assert f"Usage: galley {name}" in shown.output
    assert COMMANDS[name] in " ".join(shown.output.split())


def test_help_lists_every_command(galley: Galley) -> None:
    shown = galley("--help")

    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)


def test_the_version_is_that_of_the_package(galley: Galley) -> None:
    assert galley("--version").output == f"galley {__version__}\n"


def test_a_mistyped_command_is_wrong_usage_and_the_nearest_is_named(galley: Galley) -> None:
    shown = galley("chta")

    assert shown.exit_code == 2
    assert "Did you mean 'chat'?" in shown.stderr


@pytest.mark.parametrize(
    ("words", "unwanted"),
    [
        (["--help"], (*HEAVY, "httpx2", "galley.client")),
        (["chat", "--help"], HEAVY),
        (["config", "path"], (*HEAVY, "httpx2")),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_need(
    words: list[str], unwanted: tuple[str, ...]
) -> None:
    script = (
        "import sys; from galley.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        f"print([name for name in {unwanted!r} if name in sys.modules])"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )

    assert ran.stdout.splitlines()[-1] == "[]"
