"""Files from a model hub: with a progress bar, resumed where they broke off, checked."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url, http_get
from huggingface_hub.utils import build_hf_headers

from galley.core.catalogue import Kind, ModelSettings
from galley.services.places import Place, SourceError

_SOURCE = re.compile(r"hf:(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^?#\\]+))?")
_SHA256 = re.compile("[0-9a-f]{64}")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
# What an engine reads beside the weights; a repository need not have all of it.
_COMPANIONS: dict[Kind, Sequence[str]] = {
    "chat": (),
    "embeddings": (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "modules.json",
        "1_Pooling/config.json",
    ),
    "rerank": (),
    "moderation": (),
    "classify": (
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "labels.txt",
    ),
}
_CHAT_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class HubFile:
    """The file a `hf:` source means; without a name, all that transformers reads."""

    repository: str
    file: str = ""

    @property
    def local_name(self) -> str:
        """What it is called here: engines look for `model.onnx` and `model.safetensors`."""
        path = PurePosixPath(self.file)
        return f"model{path.suffix}" if path.suffix in (".onnx", ".safetensors") else path.name


def find_hub_file(model: ModelSettings) -> HubFile:
    """Read a `hf:` source.

    Raises:
        SourceError: it is not written as it should be.
    """
    match = _SOURCE.fullmatch(model.source)
    file = match["file"] or "" if match else ""
    whole = model.engine == "torch"
    if match is None or bool(file) is whole or ".." in PurePosixPath(file).parts:
        wanted = "hf:ORGANISATION/REPOSITORY" + ("" if whole else "/FILE")
        raise SourceError(f"{model.source} should read {wanted}.")
    return HubFile(match["repository"], file)


def fetch_hub_file(place: Place, model: ModelSettings) -> None:
    """Download a model's file, and what its engine reads beside it, into its place.

    Raises:
        SourceError: the hub cannot be reached, has no such file, or sent a broken one.
    """
    wanted = find_hub_file(model)
    partial = place.folder.with_name(f".partial-{place.folder.name}")
    partial.mkdir(exist_ok=True)
    try:
        if wanted.file:
            arrived = [(wanted.local_name, _download(wanted, partial, model.sha256))]
        else:
            arrived = _download_weights(wanted.repository, partial, model.sha256)
        for name in _companions(wanted, model):
            if (path := _try(HubFile(wanted.repository, name), partial)) is not None:
                arrived.append((_beside(wanted, name), path))
    except (OSError, httpx2.HTTPError, HFValidationError) as error:
        raise SourceError(_explain(wanted, error)) from error
    with place.filling() as folder:
        for name, path in arrived:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
    for left in partial.iterdir():
        left.unlink()
    partial.rmdir()


def _companions(wanted: HubFile, model: ModelSettings) -> Sequence[str]:
    if model.engine == "torch" and model.kind == "chat":
        return _CHAT_COMPANIONS
    names = list(_COMPANIONS[model.kind])
    if wanted.file.endswith(".onnx"):
        names.append(f"{wanted.file}_data")  # where a large graph keeps its weights
    return names


def _beside(wanted: HubFile, name: str) -> str:
    """Where a companion goes: what the graph looks for is beside it, whatever folder it was in."""
    return PurePosixPath(name).name if name == f"{wanted.file}_data" else name


def _download_weights(repository: str, folder: Path, sha256: str | None) -> list[tuple[str, Path]]:
    """Download a model's safetensors, in one file or in several, and never a pickle."""
    if (whole := _try(HubFile(repository, _WEIGHTS), folder, sha256)) is not None:
        return [(_WEIGHTS, whole)]
    index = _try(HubFile(repository, _INDEX), folder)
    if index is None:
        raise SourceError(f"{repository} has no {_WEIGHTS}, and nothing else is loaded.")
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        good = all(_SHARD.fullmatch(name) for name in names)
    except (ValueError, LookupError, TypeError, AttributeError):
        names, good = [], False
    if not good:
        raise SourceError(f"{repository}/{_INDEX} is damaged, or names files elsewhere.")
    shards = [(name, _download(HubFile(repository, name), folder, None)) for name in names]
    return [(_INDEX, index), *shards]


def _try(wanted: HubFile, folder: Path, sha256: str | None = None) -> Path | None:
    """Download a file that a repository need not have."""
    try:
        return _download(wanted, folder, sha256)
    except RemoteEntryNotFoundError:
        return None


def _download(wanted: HubFile, folder: Path, sha256: str | None) -> Path:
    found = get_hf_file_metadata(hf_hub_url(wanted.repository, wanted.file))
    etag = found.etag or ""
    path = folder / f"{hashlib.sha256(f'{wanted} {etag}'.encode()).hexdigest()}.partial"
    if path.exists() and found.size is not None and path.stat().st_size > found.size:
        path.unlink()
    url = hf_hub_url(wanted.repository, wanted.file, revision=found.commit_hash)
    with path.open("ab") as file:
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=found.size,
            displayed_filename=PurePosixPath(wanted.file).name,
        )
    # The hub names large files by their SHA-256 and small ones by git's own hash.
    expected = sha256 or (etag if _SHA256.fullmatch(etag) else None)
    if expected and _hash(path) != expected:
        path.unlink()
        raise SourceError(
            f"{wanted.repository}/{wanted.file} arrived broken: its SHA-256 is not {expected}."
            " Try again; if it stays so, the file was changed at its source."
        )
    return path


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(wanted: HubFile, error: Exception) -> str:
    hub, name = constants.ENDPOINT, f"{wanted.repository}/{wanted.file}"
    if isinstance(error, GatedRepoError):
        return f"{name}: accept its licence at {hub}/{wanted.repository} and set HF_TOKEN."
    if isinstance(error, RepositoryNotFoundError):
        return f"{hub} has no {wanted.repository}, or it is private: check the name, set HF_TOKEN."
    if isinstance(error, RemoteEntryNotFoundError):
        return f"{wanted.repository} has no {wanted.file}; see {hub}/{wanted.repository}."
    if isinstance(error, OfflineModeIsEnabled):
        return f"{name} is not here yet and HF_HUB_OFFLINE is set: unset it once, or use path:."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hint = "Is it private? Set HF_TOKEN." if status in (401, 403) else "Try again later."
        return f"{name}: {hub} answered {status}. {hint}"
    return (
        f"{name} could not be fetched from {hub} ({error or type(error).__name__}). Check the"
        " network and run this again: what has arrived is kept. Or give a file with path:."
    )
