"""`galley audit`: works the ledger's sums out anew, straight in the database."""

import asyncio
from dataclasses import asdict

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, JsonOption, err, fail, out, print_json
from galley.core.settings import Settings, SettingsError
from galley.db.session import visit_database
from galley.services.books import Audit, Books, DisagreementError

app = typer.Typer(add_completion=False)


@app.command()
def audit(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Recompute sums, costs and invoices, and name the first that disagrees.

    Works on the database; the server may run or not. Exit status 1 if anything disagrees.
    """
    try:
        found = asyncio.run(_audit(read_settings(data_dir=data_dir)))
    except SettingsError as error:
        fail(str(error))
    except DisagreementError as error:
        if not as_json:
            fail(f"The ledger disagrees. {error}")
        print_json({"ok": False, "disagreement": str(error)})
        raise typer.Exit(ExitCode.FAILED) from None
    if as_json:
        print_json({"ok": True, **asdict(found)})
    else:
        _show(found)


async def _audit(settings: Settings) -> Audit:
    columns = ("Requests", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with visit_database(settings.database_url.get_secret_value()) as sessions:
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task("requests", total=None)
            return await Books(sessions).audit(
                lambda done, of: progress.update(task, completed=done, total=of)
            )


def _show(found: Audit) -> None:
    out.print(
        f"Clean: {found.requests:,} requests agree with their prices, {found.hours:,} hourly and "
        f"{found.days:,} daily sums with what they are sums of, {found.invoices:,} invoices with "
        "their requests."
    )
    if found.whole_from is not None:
        out.print(
            f"Requests from before {found.whole_from:%Y-%m-%d %H:%M} UTC were deleted as they "
            "were old: hours and invoices from before that were not compared with them."
        )
