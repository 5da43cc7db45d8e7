"""`galley models`: which there are, and how to get more."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.connection import KeyOption, ServerOption, connected
from galley.cli.console import ExitCode, JsonOption, fail, make_table, out, print_json, warn
from galley.cli.downloads import fetch_missing, fetch_one, is_here
from galley.cli.model_file import table_of, with_model, without_model
from galley.client import APIConnectionError, APIError, Client
from galley.core.catalogue import EMBEDDED_MODELS, EngineName, Kind, ModelSettings
from galley.core.settings import Settings, check_model_name
from galley.schemas.account import ModelReply
from galley.services.presets import PRESETS

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, install, add and remove models."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A model as it is listed."""

    name: str
    kind: str
    state: str
    hardware: str
    license: str
    source: str


@app.command("list")
def list_models(
    server: ServerOption = None,
    key: KeyOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models: those of the running server, or else those of the settings."""
    if server is not None:
        with connected(server, key) as client:
            rows = [_as_served(model) for model in client.models()]
    else:
        settings = read_settings(data_dir=data_dir)
        rows = _ask_local_server(key) or [
            _as_set(name, model, settings) for name, model in settings.catalogue.items()
        ]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = make_table("name", "kind", "state", "hardware", "licence", "source")
    for row in rows:
        table.add_row(*(escape(cell) for cell in asdict(row).values()))
    out.print(table)


@app.command()
def install(data_dir: DataDirOption = None) -> None:
    """Fetch the models that are not here yet, so that the server can start without a network."""
    settings = read_settings(data_dir=data_dir)
    if not fetch_missing(settings.catalogue, settings.models_dir):
        raise typer.Exit(ExitCode.FAILED)
    typer.echo(f"{len(settings.catalogue)} models are in {settings.models_dir}.", err=True)


@app.command()
def add(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PRESET|SOURCE",
            help=f"{', '.join(PRESETS)}; or hf:ORG/REPO/FILE, path:/FILE, http://SERVER/v1;"
            " for torch hf:ORG/REPO or path:/FOLDER.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What requests call it.")] = None,
    kind: Annotated[Kind, typer.Option(help="What it does; a preset knows.")] = "chat",
    engine: Annotated[
        EngineName | None, typer.Option(help="transformers run it on torch; needs galley[torch].")
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="It answers for galley/<kind>.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Fetch a model and write it into the TOML file.

    galley models add qwen2.5-1.5b --default
    galley models add hf:ORG/REPO/model.gguf --name mine
    galley models add hf:microsoft/resnet-18 --kind classify --engine torch
    """
    settings = read_settings(data_dir=data_dir)
    name = name or (what if what in PRESETS else _name_of(what))
    model = _model(what, kind, engine, default=default)
    _refuse_clashes(settings, name, model)
    text = _with_model(settings, name, model)
    fetch_one(name, model, settings.models_dir)
    settings.config.parent.mkdir(parents=True, exist_ok=True)
    settings.config.write_text(text)
    typer.echo(f"{name} is in {settings.config}. Restart the server to use it: galley serve")
    if model.source.startswith("http") and not _has_price(name):
        warn(
            "it has no price yet, and calls are refused (price_unknown) until it has one. When the"
            f" server runs: galley prices set {name} --prompt USD --completion USD, 0 where it is"
            " free."
        )


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The model's name, from `galley models list`.")],
    data_dir: DataDirOption = None,
) -> None:
    """Take a model out of the TOML file; what was downloaded stays in the models folder."""
    settings = read_settings(data_dir=data_dir)
    if name not in settings.models:
        hint = "galley models list shows those there are."
        if name in EMBEDDED_MODELS:
            hint = "It comes with Galley; GALLEY_EMBEDDED_MODELS=false leaves out all three."
        fail(f"There is no model {name!r} in {settings.config}. {hint}")
    try:
        text = without_model(_read(settings.config), name)
    except (ValueError, KeyError):  # KeyError: variables alone set it
        fail(f"{name} cannot simply be taken out of {settings.config}. Edit it by hand.")
    settings.config.write_text(text)
    typer.echo(f"{name} is no longer in {settings.config}. Restart the server: galley serve")


def _ask_local_server(key: str | None) -> list[Row]:
    """The models of the server on this machine; nothing when there is none that lets us in."""
    try:
        with Client(api_key=key) as client:
            return [_as_served(model) for model in client.models()]
    except APIConnectionError:
        return []
    except (APIError, ValueError) as error:
        warn(f"the server was not asked ({error}); this is what the settings say.")
        return []


def _has_price(name: str) -> bool:
    """Whether the server on this machine knows what it costs; no, when it cannot be asked."""
    try:
        with Client() as client:
            prices = json.loads(client.request("GET", "/v1/prices"))["data"]
    except (APIError, ValueError):
        return False
    return any(price["model"] == name for price in prices)


def _as_served(model: ModelReply) -> Row:
    return Row(
        model.id, model.kind, model.status, model.hardware or "-", model.license, model.source
    )


def _as_set(name: str, model: ModelSettings, settings: Settings) -> Row:
    state = "installed" if is_here(name, model, settings.models_dir) else "not installed"
    return Row(name, model.kind, state, "-", model.license, model.source)


def _name_of(source: str) -> str:
    name = PurePosixPath(source.rstrip("/")).name.lower()
    return re.sub(r"\.(gguf|onnx|safetensors|pth)$", "", name)


def _model(what: str, kind: Kind, engine: EngineName | None, *, default: bool) -> ModelSettings:
    if preset := PRESETS.get(what):
        return preset.model_copy(update={"default": default})
    try:
        return ModelSettings(kind=kind, source=what, engine=engine, default=default)
    except ValidationError as error:
        (problem, *_) = error.errors()
        if not problem["loc"]:  # the source is one, and something else does not go with it
            fail(problem["msg"].removeprefix("Value error, "), ExitCode.USAGE)
        fail(
            f"{what!r} is neither a preset ({', '.join(PRESETS)}) nor a source "
            "(hf:ORG/REPO/FILE, path:/FILE, http://SERVER/v1).",
            ExitCode.USAGE,
        )


def _refuse_clashes(settings: Settings, name: str, model: ModelSettings) -> None:
    try:
        check_model_name(name)
    except ValueError as error:
        fail(f"{error}. Choose another: --name", ExitCode.USAGE)
    if name in settings.models:
        fail(
            f"There is a model {name!r} in {settings.config} already. Choose another: --name, or "
            f"take it out first: galley models remove {name}"
        )
    if name in EMBEDDED_MODELS:
        fail(f"{name!r} is the name of a model that comes with Galley. Choose another: --name")
    if model.kind != "chat" and model.source.startswith("http"):
        fail("Only chat models can be served by another server yet.", ExitCode.USAGE)
    rivals = [n for n, m in settings.models.items() if m.kind == model.kind and m.default]
    if model.default and rivals:
        fail(f"{rivals[0]} is the default {model.kind} model already: see {settings.config}.")


def _with_model(settings: Settings, name: str, model: ModelSettings) -> str:
    try:
        return with_model(_read(settings.config), name, model)
    except ValueError:
        table = table_of(name, model)
        fail(f"{settings.config} cannot simply be added to. Write this into it:\n{table}")


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
