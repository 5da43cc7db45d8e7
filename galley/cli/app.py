"""The `galley` command: which commands there are. Each has its own file, imported when it runs."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from galley import __version__
from galley.core.heap import lasting

# What `galley --help` says of each; the first line of the command's own help.
COMMANDS = {
    "serve": "Start the server with its models.",
    "worker": "Do jobs beside the servers, told of them by Celery.",
    "demo": "Ask every model of a running server in every way, and print a table.",
    "chat": "Talk to a chat model: one question, or a conversation.",
    "classify": "Say what is in pictures.",
    "embed": "Turn texts into vectors, and compare them.",
    "jobs": "List, watch and cancel what goes on in the background.",
    "batches": "Have many requests answered from a file; list and cancel such batches.",
    "documents": "Add documents, and search what they say.",
    "connect": "Print the lines that join a client to the server; without one, list the clients.",
    "models": "List, install, add and remove models.",
    "config": "Show the settings and where they come from.",
    "keys": "Create, list, renew and revoke API keys.",
    "users": "List, add, change, top up and disable users.",
    "tiers": "List, show, set and delete tiers.",
    "routes": "List, set, promote, roll back, delete and compare routes.",
    "usage": "Show what your requests came to, and what your limits leave you.",
    "why": "Show how a request came to its end: limits, attempts, cost, and where the time went.",
    "prices": "Show and set prices.",
    "invoices": "List, show and save invoices.",
    "cache": "See how well answers are found again.",
    "audit": "Recompute sums, costs and invoices, and name the first that disagrees.",
    "migrate": "Move this installation from SQLite to PostgreSQL, and check that all has arrived.",
    "prove": "See that the server keeps its promises.",
}


class _LazyGroup(TyperGroup):
    """Knows every command by its line of help, and imports the one that is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        with lasting():
            module = import_module(f"galley.cli.{name}")
        return name, get_command(module.app), rest


app = typer.Typer(
    name="galley",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    help="A self-hosted AI API server: real models, keys, limits and bills behind one command.",
    epilog="Start with: galley serve",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"galley {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app(prog_name="galley")
