"""`galley keys`: API keys, one's own and, for admins, those of others."""

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json, warn
from galley.cli.limits import LimitsOption, changed, shown
from galley.cli.users import find_user, whole_list
from galley.client import Client
from galley.client.profile import Profile, load_profile, save_profile
from galley.core.settings import Settings, SettingsError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Create, list, renew and revoke API keys."
)

KeyArgument = Annotated[str, typer.Argument(help="The key's id, from `galley keys list`.")]
UserOption = Annotated[
    str | None,
    typer.Option(metavar="EMAIL", help="Whose key; unset: your own. Others': for admins."),
]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "cli",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do; repeat it for each scope. Unset: all that you may."),
    ] = None,
    days: Annotated[
        int | None, typer.Option("--expires-in-days", help="How long it opens; unset: for ever.")
    ] = None,
    limit: LimitsOption = None,
    user: UserOption = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Make an admin's key straight in the database on this machine, and keep it for the"
            " commands here: the way in for who lost every key. The server may run or not.",
        ),
    ] = False,
    data_dir: DataDirOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and show it, this once."""
    if data_dir is not None and not local:
        fail("--data-dir goes with --local.", ExitCode.USAGE)
    if local:
        if scope or days or limit or user:
            fail("--local makes a full key of the admin: leave the rest out.", ExitCode.USAGE)
        settings = read_settings(data_dir=data_dir)
        made = asyncio.run(_create_locally(settings, name))
        _keep(settings, made["key"])
    else:
        body = {"name": name, "scopes": scope, "expires_in_days": days}
        body |= {"limits": changed({}, limit or [])}
        with connected(server, key) as client:
            made = json.loads(client.request("POST", _keys_of(client, user), body))
    _show_once(made, as_json)


@app.command("list")
def list_keys(
    user: UserOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List API keys; of a key, only its ends are known."""
    with connected(server, key) as client:
        found = whole_list(client, f"{_keys_of(client, user)}?limit=1000")
    if as_json:
        print_json(found)
        return
    table = make_table("id", "name", "key", "scopes", "limits", "ends", "last used")
    for row in found:
        ends, style = _moment(row["expires_at"]) or "never", ""
        if row["revoked_at"]:
            ends, style = "revoked", "dim"
        scopes = "all" if row["scopes"] is None else ", ".join(row["scopes"])
        ends_of_key = f"{row['prefix']}...{row['last_four']}"
        cells = (row["id"], escape(row["name"]), ends_of_key, scopes, shown(row["limits"]), ends)
        table.add_row(*cells, _moment(row["last_used_at"]), style=style)
    out.print(table)


@app.command()
def revoke(
    key_id: KeyArgument,
    user: UserOption = None,
    server: ServerOption = None,
    key: KeyOption = None,
) -> None:
    """Close a key at once."""
    with connected(server, key) as client:
        client.request("DELETE", f"{_keys_of(client, user)}/{quote(key_id, safe='')}")
    typer.echo(f"Revoked {key_id}.")


@app.command()
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        int, typer.Option(metavar="SECONDS", help="How long the old key still opens.")
    ] = 0,
    server: ServerOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key like this one of yours and show it, this once; the old one closes."""
    with connected(server, key) as client:
        path = f"/v1/keys/{quote(key_id, safe='')}/rotate"
        made = json.loads(client.request("POST", path, {"overlap_seconds": overlap}))
    _show_once(made, as_json)


def _keys_of(client: Client, user: str | None) -> str:
    """Where the keys of `user` are."""
    return "/v1/keys" if user is None else f"/v1/admin/users/{find_user(client, user)['id']}/keys"


def _show_once(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    typer.echo(made["key"])  # nothing but the key, so that a shell can keep it
    warn(f"This is key {made['id']}. It is shown this once and kept nowhere: store it now.")


def _moment(written: str | None) -> str:
    return "" if written is None else written[:16].replace("T", " ")


def _keep(settings: Settings, key: str) -> None:
    """Let the commands on this machine use `key`, as the server does with its first one."""
    from galley.cli.welcome import address, profile_of

    path = profile_of(settings)
    known = load_profile(path)
    url = known.base_url if known else address(settings.host, settings.port)
    try:
        save_profile(path, Profile(url, key))
    except OSError as error:
        warn(f"{path} cannot be written ({error.strerror}): pass the key with --key.")
    else:
        warn(f"commands on this machine use it from now on; it is kept in {path}.")


async def _create_locally(settings: Settings, name: str) -> dict[str, Any]:
    from galley.db.session import visit_database  # heavy, and the other ways do without
    from galley.db.users import first_admin
    from galley.services.accounts import Accounts

    try:
        async with visit_database(settings.database_url.get_secret_value()) as sessions:
            async with sessions() as session:
                admin = await first_admin(session)
            if admin is None:
                fail("There is no admin yet. Start the server once: galley serve")
            made = await Accounts(sessions).create_key(user_id=admin.id, name=name)
    except SettingsError as error:
        fail(str(error))
    return {"id": made.key_id, "name": name, "key": made.key}
