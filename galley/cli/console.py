"""How every command speaks: data to standard output, everything else to standard error."""

import sys
from enum import IntEnum
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A pipe has no width: nothing is broken there that a program would have to join again.
out = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class ExitCode(IntEnum):
    """What a command's exit status says."""

    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3


def fail(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """End the command with one clear line."""
    err.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(code)


def say(message: str) -> None:
    """Say what is going on."""
    err.print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    """Say what the user should know, and go on."""
    err.print(Text.assemble(("Note: ", "bold yellow"), message), soft_wrap=True)


def print_json(data: Any) -> None:
    """Print `data` as JSON, whatever the terminal."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")


def make_table(*headers: str) -> Table:
    """A plain table that shows every cell whole, over several lines if need be."""
    table = Table(*headers, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def bar(share: float, width: int = 20) -> str:
    """Draw `share`, 0 to 1, as a bar."""
    return "█" * max(1, round(share * width)) if share > 0 else ""
