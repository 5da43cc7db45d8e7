"""`galley usage`: what requests came to."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json
from galley.core.money import dollars

app = typer.Typer(add_completion=False)

By = Literal["day", "model", "key", "endpoint", "user", "tier"]
_OWN: tuple[By, ...] = ("day", "model", "key", "endpoint")
_ALL: tuple[By, ...] = ("day", "model", "endpoint", "user", "tier")


@app.command()
def usage(
    by: Annotated[By | None, typer.Option(help="What to add up by: user and tier with --all.")] = (
        None
    ),
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="The first day that counts."),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day.")
    ] = None,
    everyones: Annotated[bool, typer.Option("--all", help="Of all users; for admins.")] = False,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what your requests came to, and what your limits leave you."""
    known = _ALL if everyones else _OWN
    if by is not None and by not in known:
        without = "with" if everyones else "without"
        fail(f"--by {by} does not go {without} --all: choose {', '.join(known)}.", ExitCode.USAGE)
    given = {"from": first and f"{first:%Y-%m-%d}", "to": last and f"{last:%Y-%m-%d}"}
    given["group_by"] = by
    query = urlencode({name: value for name, value in given.items() if value is not None})
    path = "/v1/admin/usage" if everyones else "/v1/usage"
    with connected(server, key) as client:
        found: dict[str, Any] = json.loads(client.request("GET", f"{path}?{query}"))
    if as_json:
        print_json(found)
        return
    _show_totals(found)
    if by is not None:
        _show_rows(found, by)
    if found.get("limits"):
        _show_limits(found["limits"])


def _show_totals(found: dict[str, Any]) -> None:
    out.print(
        f"{found['total_requests']:,} requests, {found['success_rate']:g} % successful, "
        f"{found['avg_response_time_ms']:g} ms on average"
    )
    out.print(
        f"{found['prompt_tokens']:,} tokens of prompts, {found['completion_tokens']:,} of answers, "
        f"{found['units']:,} pictures and texts"
    )
    out.print(f"${dollars(found['cost'])}")


def _show_rows(found: dict[str, Any], by: By) -> None:
    table = make_table(by, "requests", "prompt", "answer", "units", "US$")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found["rows"]:
        counts = (row[n] for n in ("requests", "prompt_tokens", "completion_tokens", "units"))
        name = row["name"] or row["group"] or "-"
        table.add_row(escape(name), *(f"{n:,}" for n in counts), dollars(row["cost"]))
    out.print()
    out.print(table)
    if found["has_more"]:
        out.print("There are more: choose days with --from and --to.")


def _show_limits(limits: list[dict[str, Any]]) -> None:
    table = make_table("limit", "of", "left", "free again in")
    for row in limits:
        whose = row["model"] or row["subject"]
        is_money = row["metric"] == "cost"
        left, limit = (
            f"${dollars(row[name])}" if is_money else f"{row[name]:,}"
            for name in ("remaining", "limit")
        )
        named = {"now": "at a time", "ever": "prepaid credit"}
        name = named.get(row["period"], f"{row['metric']} per {row['period']}")
        again = "never" if row["reset_s"] is None else f"{row['reset_s']:.0f} s"
        table.add_row(f"{name}, {escape(whose)}", limit, left, again)
    out.print()
    out.print(table)
