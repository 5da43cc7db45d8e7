"""`galley migrate`: moves an installation to PostgreSQL."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, JsonOption, err, fail, make_table, out, print_json, say
from galley.core.settings import Settings, SettingsError
from galley.db.moving import Moved, MovingError
from galley.services.moving import move
from galley.stores.passages_schema import FILE

app = typer.Typer(add_completion=False)


@app.command()
def migrate(
    to: Annotated[
        str, typer.Option("--to", help="An empty database: postgresql://user@host/galley")
    ],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move this installation from SQLite to PostgreSQL, and check that all has arrived.

    Stop the server first. All of it arrives or nothing: what was interrupted is simply run again.
    Files and models stay in the data directory, and so does the old database.
    """
    settings = read_settings(data_dir=data_dir)
    try:
        found = asyncio.run(_migrate(settings, to))
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)
    except MovingError as error:
        fail(str(error))
    if as_json:
        print_json([asdict(table) for table in found])
        return
    _show(found)
    say("All of it has arrived. Set GALLEY_DATABASE_URL to the new database, and start the server.")


async def _migrate(settings: Settings, to: str) -> list[Moved]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, of: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=of)
            progress.update(tasks[name], completed=done)

        source = settings.database_url.get_secret_value()
        return await move(source, to, settings.data_dir / FILE, tell)


def _show(found: list[Moved]) -> None:
    table = make_table("table", "rows", "sums, the same on both sides")
    for moved in found:
        sums = ", ".join(f"{name} {value:,}" for name, value in moved.sums.items() if value)
        table.add_row(moved.name, f"{moved.rows:,}", sums)
    out.print(table)
