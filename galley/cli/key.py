"""`galley key`: API keys, straight in the database; the server may run or not."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.markup import escape

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import JsonOption, fail, make_table, out, print_json
from galley.core.errors import NotFoundError
from galley.core.settings import Settings, SettingsError
from galley.db import keys
from galley.db.session import Sessions, visit_database
from galley.db.tables import ApiKey
from galley.db.users import first_admin
from galley.services.accounts import Accounts, NewKey

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Create, list and revoke API keys."
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "cli",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key for the admin and show it once."""
    made = asyncio.run(_create(read_settings(data_dir=data_dir), name))
    if as_json:
        print_json({"id": made.key_id, "name": name, "key": made.key})
    else:
        typer.echo(made.key)


@app.command("list")
def list_keys(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the admin's API keys; of a key, only its ends are known."""
    found = asyncio.run(_list(read_settings(data_dir=data_dir)))
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    table = make_table("id", "name", "key", "created", "state")
    for key in found:
        shown = f"{key.prefix}...{key.last_four}"
        state, style = ("revoked", "dim") if key.revoked_at else ("open", "")
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(key.id, escape(key.name), shown, made, state, style=style)
    out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `galley key list`.")],
    data_dir: DataDirOption = None,
) -> None:
    """Close a key; a running server forgets it within a minute."""
    asyncio.run(_revoke(read_settings(data_dir=data_dir), key_id))
    typer.echo(f"Revoked {key_id}.")


async def _create(settings: Settings, name: str) -> NewKey:
    async with _admins(settings) as (sessions, admin_id):
        return await Accounts(sessions).create_key(user_id=admin_id, name=name)


async def _list(settings: Settings) -> Sequence[ApiKey]:
    async with _admins(settings) as (sessions, admin_id), sessions() as session:
        return await keys.list_keys(session, user_id=admin_id)


async def _revoke(settings: Settings, key_id: str) -> None:
    async with _admins(settings) as (sessions, admin_id):
        try:
            await Accounts(sessions).revoke(user_id=admin_id, key_id=key_id)
        except NotFoundError:
            fail(f"There is no open key {key_id!r}. `galley key list` shows those there are.")


@asynccontextmanager
async def _admins(settings: Settings) -> AsyncGenerator[tuple[Sessions, str]]:
    """Open the database; yields its sessions and the admin's id."""
    try:
        async with visit_database(settings.database_url.get_secret_value()) as sessions:
            async with sessions() as session:
                admin = await first_admin(session)
            if admin is None:
                fail("There is no admin yet. Start the server once: galley serve")
            yield sessions, admin.id
    except SettingsError as error:
        fail(str(error))


def _as_json(key: ApiKey) -> dict[str, str | None]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
