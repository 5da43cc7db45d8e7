"""How commands read the settings, and what they say of settings that cannot be used."""

import os
from pathlib import Path
from typing import Annotated

import typer

from galley.cli.console import ExitCode, fail
from galley.core.origins import load_settings
from galley.core.settings import Settings, SettingsError

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Database, models and keys; unset: GALLEY_DATA_DIR."),
]


def read_settings(**given: object) -> Settings:
    """Load the settings; `given` are options of the command line, which win.

    An option stands in for its variable, so that all that reads the environment, the child
    processes and the client among it, agrees.
    """
    for name, value in given.items():
        if value is not None:
            os.environ[f"GALLEY_{name.upper()}"] = str(value)
    try:
        return load_settings()
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)
