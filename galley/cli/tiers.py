"""`galley tiers`: what users may do and how much of it; for admins."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json, warn
from galley.cli.filters import FiltersOption, rule_shown, ruled
from galley.cli.limits import LimitsOption, changed, shown
from galley.client import Client

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, show, set and delete tiers."
)

_KEPT = ("scopes", "models", "model_limits", "weight")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The tier's name.")]


@app.command("list")
def list_tiers(
    server: ServerOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List all tiers."""
    with connected(server, key) as client:
        tiers = _tiers(client)
    if as_json:
        print_json(list(tiers.values()))
        return
    table = make_table("name", "scopes", "models", "weight", "limits")
    for tier in tiers.values():
        limits = shown(tier["limits"]) or "none"
        scopes, models = ", ".join(tier["scopes"]), escape(_models(tier))
        table.add_row(tier["name"], scopes, models, str(tier["weight"]), limits)
    out.print(table)


@app.command()
def show(
    name: NameArgument,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all of one tier."""
    with connected(server, key) as client:
        tier = _tiers(client).get(name)
    if tier is None:
        fail(f"There is no tier {name!r}. `galley tiers list` shows those there are.")
    if as_json:
        print_json(tier)
    else:
        _show(tier)


@app.command("set")
def set_tier(
    name: NameArgument,
    scope: Annotated[
        list[str] | None, typer.Option(help="What its users may do; repeat it for each scope.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model they may use; repeat it. `all` is all.")
    ] = None,
    weight: Annotated[
        int | None, typer.Option(help="A user's share of a busy model, compared with others.")
    ] = None,
    limit: LimitsOption = None,
    model_limit: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL:NAME=VALUE", help="The same limits, on one model."),
    ] = None,
    filter_: FiltersOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a tier, or change it: what is not named stays.

    galley tiers set free --limit requests_per_minute=30 --limit cost_per_day=0.50
    """
    limits_of = [_of_model(text) for text in model_limit or []]
    with connected(server, key) as client:
        known = _tiers(client).get(name, {})
        body = {part: known[part] for part in _KEPT if part in known}
        if scope:
            body["scopes"] = scope
        if model:
            body["models"] = None if model == ["all"] else model
        if weight is not None:
            body["weight"] = weight
        body["limits"] = changed(known.get("limits", {}), limit or [])
        body["filters"] = ruled(known.get("filters", []), filter_ or [])
        for model_name, text in limits_of:
            of_models = body.setdefault("model_limits", {})
            of_models[model_name] = changed(of_models.get(model_name, {}), [text])
        tier = json.loads(client.request("PUT", _path(name), body))
        unknown = _unknown(client, [*(model or []), *(text[0] for text in limits_of)])
    for model_name in unknown:
        warn(f"No model or route is called {model_name}: nothing comes of it yet.")
    if as_json:
        print_json(tier)
    else:
        _show(tier)


@app.command()
def delete(name: NameArgument, server: ServerOption = None, key: KeyOption = None) -> None:
    """Delete a tier that nobody is in."""
    with connected(server, key) as client:
        client.request("DELETE", _path(name))
    typer.echo(f"Deleted {name}.")


def _tiers(client: Client) -> dict[str, dict[str, Any]]:
    data = json.loads(client.request("GET", "/v1/admin/tiers"))["data"]
    return {tier["name"]: tier for tier in data}


def _path(name: str) -> str:
    return f"/v1/admin/tiers/{quote(name, safe='')}"


def _of_model(text: str) -> tuple[str, str]:
    """Take `MODEL:NAME=VALUE` apart; a model's name may have colons of its own."""
    model, colon, limit = text.rpartition(":")
    if not colon or not model:
        fail(f"--model-limit {text}: it is MODEL:NAME=VALUE.", ExitCode.USAGE)
    return model, limit


def _unknown(client: Client, names: list[str]) -> list[str]:
    """Pick out what is no model; a route's name that ends with * is in no list of models."""
    asked = [name for name in names if name != "all" and not name.endswith("*")]
    known = {model.id for model in client.models()} if asked else set[str]()
    return [name for name in dict.fromkeys(asked) if name not in known]


def _models(tier: dict[str, Any]) -> str:
    return "all" if tier["models"] is None else ", ".join(tier["models"]) or "none"


def _show(tier: dict[str, Any]) -> None:
    table = make_table("tier", escape(tier["name"]))
    table.add_row("scopes", ", ".join(tier["scopes"]) or "none")
    table.add_row("models", escape(_models(tier)))
    table.add_row("weight", str(tier["weight"]))
    table.add_row("limits", shown(tier["limits"]) or "none")
    for rule in tier["filters"]:
        table.add_row("filter", escape(rule_shown(rule)))
    for model, limits in tier["model_limits"].items():
        table.add_row(escape(f"on {model}"), shown(limits) or "none")
    out.print(table)
