"""`galley routes`: names that several models answer to, and experiments with them."""

import json
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, set, promote, roll back, delete and compare routes.",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The route's name.")]


@app.command("list")
def list_routes(
    server: ServerOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List all routes."""
    with connected(server, key) as client:
        routes = json.loads(client.request("GET", "/v1/admin/routes"))["data"]
    if as_json:
        print_json(routes)
        return
    table = make_table("name", "targets", "fallbacks", "set by")
    for route in routes:
        fallbacks = ", ".join(route["fallbacks"]) or "none"
        cells = (route["name"], _targets(route), fallbacks, route["origin"])
        table.add_row(*map(escape, cells))
    out.print(table)


@app.command("set")
def set_route(
    name: NameArgument,
    target: Annotated[
        list[str],
        typer.Option(metavar="MODEL=WEIGHT", help="A model and its weight; repeat it."),
    ],
    fallback: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model for when that one fails; repeat it."),
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a route, or put another in its place; it counts from the next request on.

    galley routes set smart --target big=90 --target small=10 --fallback tiny
    """
    body = {"targets": dict(map(_weighted, target)), "fallbacks": fallback or []}
    with connected(server, key) as client:
        route = json.loads(client.request("PUT", _path(name), body))
    _say(route, as_json)


@app.command()
def promote(
    name: NameArgument,
    target: Annotated[str, typer.Argument(metavar="MODEL", help="Who gets everybody.")],
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give all users of a route one of its targets."""
    with connected(server, key) as client:
        route = json.loads(client.request("POST", f"{_path(name)}/promote", {"target": target}))
    _say(route, as_json)


@app.command()
def rollback(name: NameArgument, server: ServerOption = None, key: KeyOption = None) -> None:
    """Bring a route back to what it was before it was last set."""
    with connected(server, key) as client:
        client.request("POST", f"{_path(name)}/rollback")
    typer.echo(f"Rolled {name} back.")


@app.command()
def delete(name: NameArgument, server: ServerOption = None, key: KeyOption = None) -> None:
    """Delete a route that was set while the server ran; the configuration's counts again."""
    with connected(server, key) as client:
        client.request("DELETE", _path(name))
    typer.echo(f"Deleted {name}.")


@app.command()
def results(
    name: NameArgument,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Such as 2027-01-01T00:00:00Z; unset: when it was last set."
        ),
    ] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a route's targets: errors, times, cost and feedback, with 95 % confidence."""
    query = f"?{urlencode({'since': since})}" if since else ""
    with connected(server, key) as client:
        found = json.loads(client.request("GET", f"{_path(name)}/results{query}"))
    if as_json:
        print_json(found)
        return
    out.print(f"{escape(found['route'])} since {found['since'][:19].replace('T', ' ')}")
    if not found["complete"]:
        out.print("There were more requests; these are the latest.")
    out.print()
    out.print(_table(found["data"]))
    out.print()
    for verdict in found["verdicts"]:
        out.print(escape(verdict))
    if not found["verdicts"]:
        out.print("Nothing can be said of their differences yet.")


def _table(arms: list[dict[str, Any]]) -> Any:
    table = make_table("", *(escape(arm["target"]) for arm in arms))
    for name in ("weight", "users", "requests"):
        table.add_row(name, *("-" if arm[name] is None else f"{arm[name]:,g}" for arm in arms))
    table.add_row("errors, %", *(_estimate(arm["error_rate"], 100, 2) for arm in arms))
    table.add_row("answer, ms", *(_estimate(arm["latency_mean_ms"], 1, 1) for arm in arms))
    for name in ("latency_p50_ms", "latency_p95_ms", "first_token_p50_ms", "first_token_p95_ms"):
        of, quantile, _ = name.rsplit("_", 2)
        said = "answer" if of == "latency" else "first token"
        cells = ("-" if arm[name] is None else f"{arm[name]:.1f}" for arm in arms)
        table.add_row(f"{said} {quantile}, ms", *cells)
    for name in ("prompt_tokens", "completion_tokens"):
        table.add_row(name.replace("_", " "), *(f"{arm[name]:,}" for arm in arms))
    table.add_row("US$ a request", *(_estimate(arm["cost_usd_per_request"], 1, 6) for arm in arms))
    table.add_row("feedback", *(f"{arm['feedback']:,}" for arm in arms))
    table.add_row("score, -1 to 1", *(_estimate(arm["feedback_score"], 1, 2) for arm in arms))
    return table


def _estimate(found: dict[str, Any], times: float, digits: int) -> str:
    value, low, high = (
        None if found[name] is None else f"{times * found[name]:.{digits}f}"
        for name in ("value", "low", "high")
    )
    return "-" if value is None else value if low is None else f"{value} ({low} to {high})"


def _weighted(text: str) -> tuple[str, float]:
    model, _, weight = text.partition("=")
    try:
        return model, float(weight or 1)
    except ValueError:
        fail(f"--target {text}: it is MODEL=WEIGHT.", ExitCode.USAGE)


def _targets(route: dict[str, Any]) -> str:
    return ", ".join(f"{model}={weight:g}" for model, weight in route["targets"].items())


def _say(route: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(route)
    else:
        typer.echo(f"{route['name']} leads to {_targets(route)}.")


def _path(name: str) -> str:
    return f"/v1/admin/routes/{quote(name, safe='')}"
