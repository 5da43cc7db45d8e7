"""`galley key`: API keys, straight in the database; the server may run or not."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json
from galley.core.errors import NotFoundError
from galley.core.settings import Settings, SettingsError
from galley.db.engine import is_sqlite, make_engine, parse_url
from galley.db.session import Sessions
from galley.db.tables import ApiKey, User
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
    keys = asyncio.run(_list(read_settings(data_dir=data_dir)))
    if as_json:
        print_json([_as_json(key) for key in keys])
        return
    table = make_table("id", "name", "key", "created", "state")
    for key in keys:
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
    async with _visit(settings) as sessions:
        async with sessions() as session:
            admin = await _admin(session)
        return await Accounts(sessions).create_key(user_id=admin.id, name=name)


async def _list(settings: Settings) -> list[ApiKey]:
    async with _visit(settings) as sessions, sessions() as session:
        admin = await _admin(session)
        query = select(ApiKey).where(ApiKey.user_id == admin.id).order_by(ApiKey.created_at)
        return list(await session.scalars(query))


async def _revoke(settings: Settings, key_id: str) -> None:
    async with _visit(settings) as sessions:
        async with sessions() as session:
            admin = await _admin(session)
        try:
            await Accounts(sessions).revoke(user_id=admin.id, key_id=key_id)
        except NotFoundError:
            fail(f"There is no open key {key_id!r}. `galley key list` shows those there are.")


@asynccontextmanager
async def _visit(settings: Settings) -> AsyncGenerator[Sessions]:
    """Open the database beside the server that may be using it: no lock, no migrations."""
    try:
        url = parse_url(settings.database_url.get_secret_value())
        if is_sqlite(url) and not settings.data_dir.joinpath(str(url.database)).is_file():
            fail(_nothing_yet(settings))
        engine = make_engine(url)
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)
    try:
        yield Sessions(engine)
    except (DBAPIError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        fail(f"The database does not answer as it should: {reason}")
    finally:
        await engine.dispose()


async def _admin(session: AsyncSession) -> User:
    if (admin := await first_admin(session)) is None:
        fail("There is no admin yet. Start the server once: galley serve")
    return admin


def _nothing_yet(settings: Settings) -> str:
    return f"There is no database in {settings.data_dir}. Start the server once: galley serve"


def _as_json(key: ApiKey) -> dict[str, str | None]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
