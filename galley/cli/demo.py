"""`galley demo`: every endpoint of a running server, green or red."""

import time
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from galley.cli.checks import CHECKS, Check, WrongAnswerError
from galley.cli.connection import KeyOption, ServerOption, connected, in_words
from galley.cli.console import ExitCode, JsonOption, err, out, print_json
from galley.client import APIError, Client

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one check."""

    endpoint: str
    sent: str
    ok: bool
    answer: str
    ms: float


@app.command()
def demo(
    server: ServerOption = None,
    key: KeyOption = None,
    wait: Annotated[
        float, typer.Option(min=0, help="How long to wait for models that load, in seconds.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Walk every endpoint of a running server and print a table.

    galley demo
    galley demo --server http://gpu-box:8000 --key gk_...
    """
    table = Table("endpoint", "sent", "came back", "ms", "", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    outcomes: list[Outcome] = []
    with connected(server, key) as client:
        _wait_for_models(client, wait)
        with Live(table, console=err if as_json else out, vertical_overflow="visible"):
            for check in CHECKS:
                outcomes.append(_run(check, client))
                _add_row(table, outcomes[-1])
    failed = sum(not outcome.ok for outcome in outcomes)
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        style, word = ("red", f"{failed} red") if failed else ("green", "all green")
        out.print(f"\n[bold {style}]{len(outcomes)} checks, {word}[/] {client.profile.base_url}")
    raise typer.Exit(ExitCode.FAILED if failed else 0)


def _wait_for_models(client: Client, longest_s: float) -> None:
    until = time.monotonic() + longest_s
    with err.status("Waiting for the models to load ..."):
        while time.monotonic() < until and "loading" in client.health().parts.values():
            time.sleep(0.25)


def _run(check: Check, client: Client) -> Outcome:
    began = time.perf_counter()
    try:
        ok, answer = True, check.run(client)
    except APIError as error:
        ok, answer = False, in_words(error)
    except (WrongAnswerError, KeyError, IndexError, TypeError, ValueError) as error:
        # The latter four: the answer does not even have the shape that was to be looked at.
        ok, answer = False, str(error) or repr(error)
    ms = round((time.perf_counter() - began) * 1000, 1)
    return Outcome(check.endpoint, check.sent, ok, " ".join(answer.split()), ms)


def _add_row(table: Table, outcome: Outcome) -> None:
    style, mark = ("", "[green]✓[/]") if outcome.ok else ("red", "✗")
    answer = shorten(outcome.answer, 60, placeholder=" ...") if outcome.ok else outcome.answer
    cells = (outcome.endpoint, outcome.sent, answer)
    table.add_row(*map(escape, cells), f"{outcome.ms:.0f}", mark, style=style)
