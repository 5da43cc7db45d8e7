"""`galley invoices`: what months came to."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json
from galley.cli.users import find_user
from galley.client import Client

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show and save invoices.")

MonthArgument = Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-11.")]
UserOption = Annotated[
    str | None,
    typer.Option("--user", metavar="EMAIL", help="Whose, by address or id; for admins."),
]


@app.command("list")
def list_invoices(
    server: ServerOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List the months in which you asked for anything."""
    with connected(server, key) as client:
        rows: list[dict[str, Any]] = json.loads(client.request("GET", "/v1/invoices"))["data"]
    if as_json:
        print_json(rows)
        return
    table = make_table("month", "requests", "US$", "")
    table.columns[1].justify = table.columns[2].justify = "right"
    for row in rows:
        state = "" if row["final"] else "not final"
        table.add_row(row["month"], f"{row['requests']:,}", row["total"], state)
    out.print(table)


@app.command()
def show(
    month: MonthArgument,
    user: UserOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an invoice, line by line."""
    with connected(server, key) as client:
        invoice: dict[str, Any] = json.loads(_fetch(client, month, user, "json"))
    if as_json:
        print_json(invoice)
        return
    draft = "" if invoice["final"] else ", not final"
    out.print(f"{month}{draft}: {escape(invoice['name'])} <{escape(invoice['email'])}>")
    table = make_table("model", "endpoint", "requests", "prompt", "answer", "units", "US$")
    for column in table.columns[2:]:
        column.justify = "right"
    for line in invoice["lines"]:
        counts = (line[n] for n in ("requests", "prompt_tokens", "completion_tokens", "units"))
        names = (escape(line["model"] or "-"), line["endpoint"])
        table.add_row(*names, *(f"{n:,}" for n in counts), line["amount"])
    blank = [""] * 5
    table.add_row("total", *blank, invoice["total"], style="bold")
    if invoice["paid"] is not None:
        table.add_row("paid from credit", *blank, invoice["paid_amount"])
        table.add_row("due", *blank, invoice["due_amount"], style="bold")
    out.print(table)


@app.command()
def save(
    month: MonthArgument,
    format: Annotated[
        Literal["html", "csv", "json"], typer.Option(help="To print, for spreadsheets, or whole.")
    ] = "html",
    output: Annotated[
        Path | None, typer.Option(help="Where to; unset: invoice-MONTH in this folder.")
    ] = None,
    user: UserOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
) -> None:
    """Save an invoice as a file."""
    with connected(server, key) as client:
        content = _fetch(client, month, user, format)
    path = output or Path(f"invoice-{month}.{format}")
    try:
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", ExitCode.USAGE)
    typer.echo(f"Saved {path}.")


def _fetch(client: Client, month: str, user: str | None, format: str) -> bytes:
    whose = "/v1"
    if user is not None:
        # An id needs no scope but that of invoices.
        user_id = find_user(client, user)["id"] if "@" in user else user
        whose = f"/v1/admin/users/{quote(user_id, safe='')}"
    return client.request("GET", f"{whose}/invoices/{quote(month, safe='')}?format={format}")
