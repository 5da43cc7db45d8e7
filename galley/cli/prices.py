"""`galley prices`: what models cost, in dollars."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json
from galley.core.money import dollars, micro_dollars

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show and set prices.")

_COLUMNS = ("prompt", "cached", "completion", "unit", "second")


@app.command("list")
def list_prices(
    history: Annotated[
        bool, typer.Option("--history", help="Every price ever set; for admins.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="With --history: of this model.")] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what models cost now, in dollars: tokens by the million, pictures and texts one by one.

    With --history, every price that was set, the latest first.
    """
    if model is not None and not history:
        fail("--model goes with --history.", ExitCode.USAGE)
    with connected(server, key) as client:
        if history:
            wanted = f"&model={quote(model, safe='')}" if model else ""
            path = f"/v1/admin/prices?limit=1000{wanted}"
        else:
            path = "/v1/prices"
        rows: list[dict[str, Any]] = json.loads(client.request("GET", path))["data"]
    if as_json:
        print_json(rows)
        return
    table = make_table("model", *_COLUMNS, "valid from")
    for column in table.columns[1:6]:
        column.justify = "right"
    for row in rows:
        amounts = (row[name] for name in _COLUMNS)
        shown = [dollars(amount) if isinstance(amount, int) else amount for amount in amounts]
        table.add_row(escape(row["model"]), *shown, row["valid_from"][:16].replace("T", " "))
    out.print(table)


@app.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="The model's name, or an alias of it.")],
    prompt: Annotated[
        str | None, typer.Option(metavar="USD", help="Dollars per million tokens of prompt.")
    ] = None,
    cached: Annotated[
        str | None,
        typer.Option(metavar="USD", help="The same for tokens in the model's cache."),
    ] = None,
    completion: Annotated[
        str | None, typer.Option(metavar="USD", help="Dollars per million tokens of answer.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="USD", help="Dollars per picture or text.")
    ] = None,
    second: Annotated[
        str | None, typer.Option(metavar="USD", help="Dollars per second that a request takes.")
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 2027-01-01T00:00:00Z; unset: now.")
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set what a model costs, in dollars; what is left out costs nothing.

    galley prices set galley/chat --prompt 0.15 --completion 0.60
    """
    given = {
        "prompt": prompt, "cached": cached, "completion": completion, "unit": unit,
        "second": second,
    }  # fmt: skip
    try:
        body: dict[str, Any] = {
            name: micro_dollars(text) for name, text in given.items() if text is not None
        }
    except ValueError as error:
        fail(f"{error}.", ExitCode.USAGE)
    if not body:
        fail("Say at least one price, 0 where the model is free.", ExitCode.USAGE)
    if valid_from is not None:
        body["valid_from"] = valid_from
    with connected(server, key) as client:
        path = f"/v1/admin/prices/{quote(model)}"
        made: dict[str, Any] = json.loads(client.request("PUT", path, body))
    if as_json:
        print_json(made)
    else:
        costs = ", ".join(f"{name} ${dollars(made[name])}" for name in _COLUMNS)
        typer.echo(f"{made['model']} costs {costs} from {made['valid_from'][:16]} on.")
