"""`galley why`: the receipt of a request."""

import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import JsonOption, make_table, out, print_json
from galley.core.money import dollars

app = typer.Typer(add_completion=False)


@app.command()
def why(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="The `request-id` that the answer had.")
    ],
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a request came to its end: limits, attempts, cost, and where the time went."""
    with connected(server, key) as client:
        path = f"/v1/requests/{quote(request_id, safe='')}"
        found: dict[str, Any] = json.loads(client.request("GET", path))
    if as_json:
        print_json(found)
        return
    table = make_table("request", found["id"])
    for name, value in _told(found):
        table.add_row(name, escape(value))
    out.print(table)
    if detail := found["detail"]:
        _show_limits(detail["limits"])
        _show_attempts(detail["attempts"])
        _show_filters(detail["filters"])
    else:
        out.print()
        out.print(found["note"])


def _told(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    status, code = found["status"], found["error_code"]
    ended = " ".join(str(part) for part in (found["state"], status, code) if part is not None)
    yield "ended", ended
    yield "came", f"{found['created_at'][:23].replace('T', ' ')} to {found['endpoint']}"
    asked, served = found["model"] or "-", found["served_model"] or "none"
    yield "model", asked if asked == served else f"{asked}, answered by {served}"
    if found["route"] is not None:
        arm = f", whose user is drawn {found['arm']}" if found["arm"] is not None else ""
        yield "route", found["route"] + arm
    if found["cache"] is not None:
        yield "cache", found["cache"]
    tokens = (
        f"{found['prompt_tokens']:,} of prompt ({found['cached_tokens']:,} in the model's cache)"
    )
    yield "tokens", f"{tokens}, {found['completion_tokens']:,} of answer"
    if found["units"]:
        yield "units", f"{found['units']:,}"
    price = found["price"]
    yield "cost", f"${found['cost_usd']}" + (f", by price {price['id']}" if price else "")
    if found["ignored_fields"]:
        yield "ignored", ", ".join(found["ignored_fields"])
    yield "time", _times(found)
    if queue := (found["detail"] or {}).get("queue"):
        yield "queue", _waited(queue)
    if said := found["feedback"]:
        yield "feedback", f"{said['score']:g}" + (f": {said['comment']}" if said["comment"] else "")


def _waited(queue: dict[str, Any]) -> str:
    came, behind = f"came as {queue['position']} of {queue['of']}", queue["behind"]
    return f"{came}, left before its turn" if behind is None else f"{came}, {behind} went first"


def _times(found: dict[str, Any]) -> str:
    known = (found["detail"] or {}).get("timings") or {
        "first_token_ms": found["first_token_ms"],
        "total_ms": found["response_time_ms"],
    }
    named = {
        "admitted_ms": "admitted after",
        "queued_ms": "queued for",
        "first_token_ms": "first token after",
        "total_ms": "all of it",
    }
    parts = [f"{words} {known[n]:.1f} ms" for n, words in named.items() if known.get(n) is not None]
    return ", ".join(parts) or "-"


def _show_limits(limits: list[dict[str, Any]]) -> None:
    if not limits:
        return
    table = make_table("limit", "of", "reserved", "left then", "")
    for row in limits:
        amounts = [
            f"${dollars(row[name])}" if row["metric"] == "cost" else f"{row[name]:,}"
            for name in ("limit", "reserved", "remaining")
        ]
        named = {"now": "at a time", "ever": "prepaid credit"}
        name = named.get(row["period"], f"{row['metric']} per {row['period']}")
        whose = row["model"] or row["subject"]
        table.add_row(escape(f"{name}, {whose}"), *amounts, "in the way" if row["refused"] else "")
    out.print()
    out.print(table)


def _show_attempts(attempts: list[dict[str, Any]]) -> None:
    if not attempts:
        return
    table = make_table("attempt", "server", "breaker", "outcome", "ms")
    for row in attempts:
        cells = (row["replica"], row["breaker"], row["outcome"], f"{row['ms']:.1f}")
        table.add_row(escape(row["model"]), *map(str, cells))
    out.print()
    out.print(table)


def _show_filters(filters: list[dict[str, Any]]) -> None:
    if not filters:
        return
    table = make_table("filter", "found", "on", "done", "times")
    for row in filters:
        table.add_row(row["rule"], row["found"], row["on"], row["action"], str(row["count"]))
    out.print()
    out.print(table)
