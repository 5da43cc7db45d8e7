"""`galley worker`: do jobs beside the servers."""

from typing import Annotated

import typer

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, fail
from galley.cli.downloads import fetch_missing
from galley.core.heap import lasting
from galley.core.logging import configure_logging
from galley.core.settings import SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Jobs at once; unset: GALLEY_JOB_CONCURRENCY."),
    ] = None,
    data_dir: DataDirOption = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve /metrics there, on GALLEY_HOST; unset: not."),
    ] = None,
) -> None:
    """Do jobs beside the servers, told of them by Celery.

    Needs the servers' GALLEY_BROKER_URL and GALLEY_DATABASE_URL (PostgreSQL), and their data
    directory, where files are.
    """
    settings = read_settings(job_concurrency=concurrency, data_dir=data_dir)
    configure_logging(settings)
    fetch_missing(settings.catalogue, settings.models_dir)
    with lasting():
        from galley.worker import run_worker  # all that a server is made of

    try:
        code = run_worker(settings, metrics_port=metrics_port)
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)
    raise typer.Exit(code)
