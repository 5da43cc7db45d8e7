"""`galley connect`: the lines that join a client to a server."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from galley.cli.connectable import CLIENTS
from galley.cli.connection import KeyOption, ServerOption
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json, say
from galley.client.profile import find_profile

app = typer.Typer(add_completion=False)

NO_KEY = "YOUR_API_KEY"


@app.command()
def connect(
    client: Annotated[
        str | None, typer.Argument(metavar="[CLIENT]", help="Which one; none: list them.")
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the key, too, not what stands for it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the lines that join a client to the server; without one, list the clients."""
    if client is None:
        _list_clients(as_json)
        return
    if client not in CLIENTS:
        fail(
            f"There are no lines for {client!r}; `galley connect` lists what there is.",
            ExitCode.USAGE,
        )
    try:
        profile = find_profile(server, key)
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    if show_key and profile.api_key is None:
        fail(f"No key is known for {profile.base_url}. Pass one with --key or GALLEY_API_KEY.")
    found = CLIENTS[client]
    shown = profile.api_key if show_key and profile.api_key else NO_KEY
    lines = found.joined(profile.base_url, shown)
    if as_json:
        told = {"language": found.language, "place": found.place, "lines": lines}
        print_json({"client": client} | told)
        return
    say(f"{found.title}: {found.place}.")
    sys.stdout.write(lines)  # as they are: no width breaks them, no markup is read in them
    if not show_key:
        known = "; --show-key prints the one that is known" if profile.api_key else ""
        say(f"{NO_KEY} stands for your API key{known}.")


def _list_clients(as_json: bool) -> None:
    if as_json:
        print_json({name: found.title for name, found in CLIENTS.items()})
        return
    table = make_table("client", "")
    for name, found in CLIENTS.items():
        table.add_row(name, escape(found.title))
    out.print(table)
