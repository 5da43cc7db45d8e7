"""`galley users`: who may come in; for admins."""

import json
import sys
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json
from galley.cli.limits import LimitsOption, changed, shown
from galley.client import Client
from galley.core.money import dollars, micro_dollars

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, add, change, top up and disable users."
)

UserArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The user's address, or id.")]


@app.command("list")
def list_users(
    email: Annotated[str | None, typer.Option(help="Only addresses with this in them.")] = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List users, the oldest first. Their ids are in the JSON."""
    search = "" if email is None else f"&email={quote(email, safe='')}"
    with connected(server, key) as client:
        users = whole_list(client, f"/v1/admin/users?limit=1000{search}")
    if as_json:
        print_json(users)
        return
    table = make_table("email", "name", "tier", "admin", "status", "own limits", "credit left")
    table.columns[0].no_wrap = True
    for user in users:
        admin = "yes" if user["is_admin"] else ""
        cells = (user["email"], user["name"], user["tier"], admin, user["status"])
        style = "" if user["status"] == "active" else "dim"
        cells = (*map(escape, cells), shown(user["limits"]), _credit(user))
        table.add_row(*cells, style=style)
    out.print(table)


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="The user's address.")],
    name: Annotated[str | None, typer.Option(help="What to call them; unset: the address.")] = None,
    tier: Annotated[str, typer.Option(help="See `galley tiers list`.")] = "free",
    admin: Annotated[bool, typer.Option("--admin", help="Let them run the server.")] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password, or read it from a pipe.")
    ] = False,
    limit: LimitsOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a user. They need a key (`galley keys create --user EMAIL`) or a password."""
    body: dict[str, Any] = {"email": email, "name": name or email, "tier": tier}
    body |= {"is_admin": admin, "limits": changed({}, limit or [])}
    if password:
        body["password"] = _read_password()
    with connected(server, key) as client:
        user = json.loads(client.request("POST", "/v1/admin/users", body))
    _tell(user, "Added", as_json)


@app.command()
def update(
    user: UserArgument,
    name: Annotated[str | None, typer.Option(help="What to call them.")] = None,
    tier: Annotated[str | None, typer.Option(help="See `galley tiers list`.")] = None,
    status: Annotated[
        Literal["active", "disabled"] | None, typer.Option(help="Let them in, or shut them out.")
    ] = None,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="Let them run the server, or not.")
    ] = None,
    limit: LimitsOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a user; it counts from their next request on.

    `--limit NAME=unset` gives back the limit of their tier, `--limit NAME=none` lifts it.
    """
    given = {"name": name, "tier": tier, "status": status, "is_admin": admin}
    body: dict[str, Any] = {what: value for what, value in given.items() if value is not None}
    if not body and not limit:
        fail("Say what to change: see galley users update --help.", ExitCode.USAGE)
    with connected(server, key) as client:
        found = find_user(client, user)
        if limit:
            body["limits"] = changed(found["limits"], limit)
        made = json.loads(client.request("PATCH", f"/v1/admin/users/{found['id']}", body))
    _tell(made, "Changed", as_json)


@app.command()
def passwd(
    user: UserArgument,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a new password: asks for it, or reads it from a pipe. It ends every login of theirs."""
    with connected(server, key) as client:
        found = find_user(client, user)
        body = {"password": _read_password()}
        made = json.loads(client.request("PATCH", f"/v1/admin/users/{found['id']}", body))
    _tell(made, "Set the password of", as_json)


@app.command()
def credit(
    user: UserArgument,
    amount: Annotated[str, typer.Argument(metavar="USD", help="Dollars, such as 10 or 2.50.")],
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add to what a user has paid ahead. From the first time on, they can spend no more than it.

    galley users credit ada@example.org 10
    """
    try:
        body = {"amount": micro_dollars(amount)}
    except ValueError as error:
        fail(f"{error}.", ExitCode.USAGE)
    with connected(server, key) as client:
        path = f"/v1/admin/users/{find_user(client, user)['id']}/credit"
        made = json.loads(client.request("POST", path, body))
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made['email']} has ${dollars(made['credit_left'])} of credit left.")


@app.command()
def disable(
    user: UserArgument,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shut a user out at once. `galley users update EMAIL --status active` lets them in again."""
    with connected(server, key) as client:
        found = find_user(client, user)
        made = json.loads(client.request("DELETE", f"/v1/admin/users/{found['id']}"))
    _tell(made, "Disabled", as_json)


def find_user(client: Client, who: str) -> dict[str, Any]:
    """Find a user by address or id, or end the command."""
    if "@" not in who:
        return json.loads(client.request("GET", f"/v1/admin/users/{quote(who, safe='')}"))
    found = whole_list(client, f"/v1/admin/users?limit=1000&email={quote(who, safe='')}")
    user = next((user for user in found if user["email"].lower() == who.lower()), None)
    if user is None:
        fail(f"There is no user {who}. `galley users list` shows those there are.")
    return user


def whole_list(client: Client, path: str) -> list[dict[str, Any]]:
    """Return a list with all its pages; `path` has a query already."""
    page: dict[str, Any] = json.loads(client.request("GET", path))
    rows: list[dict[str, Any]] = page["data"]
    while page["has_more"]:
        page = json.loads(client.request("GET", f"{path}&after={rows[-1]['id']}"))
        rows += page["data"]
    return rows


def _credit(user: dict[str, Any]) -> str:
    return "" if user["credit_left"] is None else f"${dollars(user['credit_left'])}"


def _read_password() -> str:
    if sys.stdin.isatty():
        return typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return sys.stdin.readline().rstrip("\r\n")


def _tell(user: dict[str, Any], done: str, as_json: bool) -> None:
    if as_json:
        print_json(user)
        return
    kind = "admin" if user["is_admin"] else "user"
    typer.echo(f"{done} {kind} {user['email']}: {user['tier']}, {user['status']} ({user['id']}).")
