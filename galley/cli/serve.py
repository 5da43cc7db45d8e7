"""`galley serve`: the server, from the settings to the last answer."""

from typing import Annotated

import typer

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, fail
from galley.cli.downloads import fetch_missing
from galley.cli.listening import take_address
from galley.core.heap import lasting
from galley.core.logging import configure_logging
from galley.core.settings import SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; unset: GALLEY_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port, 0: a free one; unset: GALLEY_PORT."),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Start the server with its models.

    The first start makes an API key and shows it once. Every setting is a GALLEY_ variable or a
    line of the TOML file; galley config explain lists them.
    """
    settings = read_settings(host=host, port=port, data_dir=data_dir)
    configure_logging(settings)
    listener = take_address(settings)
    fetch_missing(settings.catalogue, settings.models_dir)
    with lasting():
        from galley.cli.server import run_server  # all that a server is made of

    try:
        run_server(settings, listener)
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)
