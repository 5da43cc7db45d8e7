"""`galley demo`: what a running server answers, green or red."""

import time
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Annotated

import typer
from rich.markup import escape

from galley.cli.checks import CHECKS, Check, WrongAnswerError
from galley.cli.connection import KeyOption, ServerOption, connected, in_words
from galley.cli.console import ExitCode, JsonOption, err, make_table, out, print_json
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
    """Ask every model of a running server in every way, and print a table.

    galley demo
    galley demo --server http://gpu-box:8000 --key gk_...
    """
    outcomes: list[Outcome] = []
    with connected(server, key) as client, err.status("Waiting for the models to load") as status:
        _wait_for_models(client, wait)
        for check in CHECKS:
            status.update(check.endpoint)
            outcomes.append(_run(check, client))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        _show(outcomes, client.profile.base_url)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(ExitCode.FAILED)


def _wait_for_models(client: Client, longest_s: float) -> None:
    until = time.monotonic() + longest_s
    while time.monotonic() < until and "loading" in client.health().parts.values():
        time.sleep(0.25)


def _run(check: Check, client: Client) -> Outcome:
    began = time.perf_counter()
    try:
        ok, answer = True, check.run(client)
    except APIError as error:
        ok, answer = False, in_words(error, client.profile)
    except (WrongAnswerError, KeyError, IndexError, TypeError, ValueError) as error:
        # The latter four: the answer does not even have the shape that was to be looked at.
        ok, answer = False, str(error) or repr(error)
    ms = round((time.perf_counter() - began) * 1000, 1)
    return Outcome(check.endpoint, check.sent, ok, " ".join(answer.split()), ms)


def _show(outcomes: list[Outcome], base_url: str) -> None:
    table = make_table("endpoint", "sent", "came back", "ms", "")
    table.columns[3].justify = "right"
    for outcome in outcomes:
        style, mark = ("", "[green]✓[/]") if outcome.ok else ("red", "✗")
        answer = shorten(outcome.answer, 60, placeholder=" ...") if outcome.ok else outcome.answer
        cells = map(escape, (outcome.endpoint, outcome.sent, answer))
        table.add_row(*cells, f"{outcome.ms:.0f}", mark, style=style)
    out.print(table)
    failed = sum(not outcome.ok for outcome in outcomes)
    style, word = ("red", f"{failed} red") if failed else ("green", "all green")
    out.print(f"\n[bold {style}]{len(outcomes)} checks, {word}[/]: {base_url}")
