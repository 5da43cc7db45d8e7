from pathlib import Path

import pytest

from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings
from galley.services.presets import PRESETS
from galley.services.sources import SourceError, fetch, fetch_all, find, find_projector


def test_the_embedded_models_come_with_all_their_files(models_dir: Path) -> None:
    paths = fetch_all(EMBEDDED_MODELS, models_dir)

    assert paths.keys() == EMBEDDED_MODELS.keys()
    assert paths["smollm2-135m-instruct"].read_bytes()[:4] == b"GGUF"
    assert (paths["all-minilm-l6-v2"] / "model.safetensors").is_file()
    assert paths["efficientnet-lite0"].suffix == ".pth"


def test_the_licences_of_the_embedded_models_lie_beside_them(models_dir: Path) -> None:
    for name in EMBEDDED_MODELS:
        assert list((models_dir / name).glob("*.dist-info/**/LICENSE*")), name


def test_a_file_of_ones_own_is_taken_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    model = ModelSettings(kind="chat", source=f"path:{file}")

    assert find("mine", model, tmp_path / "models") == file
    assert fetch("mine", model, tmp_path / "models") == file
    assert not (tmp_path / "models").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = ModelSettings(kind="chat", source=f"path:{tmp_path}/absent.gguf")

    assert find("mine", model, tmp_path) is None
    with pytest.raises(SourceError, match=r"mine: there is no .*absent\.gguf"):
        fetch("mine", model, tmp_path)


def test_a_model_that_sees_needs_both_of_its_files(tmp_path: Path) -> None:
    weights, projector = tmp_path / "mine.gguf", tmp_path / "eyes.gguf"
    weights.touch()
    model = ModelSettings(kind="chat", source=f"path:{weights}", mmproj=f"path:{projector}")

    assert find("mine", model, tmp_path) is None
    with pytest.raises(SourceError, match=r"there is no .*eyes\.gguf"):
        fetch("mine", model, tmp_path)

    projector.touch()
    assert fetch("mine", model, tmp_path) == weights
    assert find_projector("mine", model, tmp_path) == projector


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.gguf").touch()

    found = find("mine", ModelSettings(kind="chat", source="path:~/mine.gguf"), tmp_path)

    assert found == tmp_path / "mine.gguf"


def test_a_model_on_another_server_has_no_files(tmp_path: Path) -> None:
    model = ModelSettings(kind="chat", source="http://127.0.0.1:9/v1")

    assert find("far", model, tmp_path) is None
    assert fetch_all({"far": model}, tmp_path) == {}
    with pytest.raises(SourceError, match="far runs on another server"):
        fetch("far", model, tmp_path)


def test_a_folder_that_cannot_be_made_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SourceError, match="GALLEY_MODELS_DIR"):
        fetch_all(EMBEDDED_MODELS, tmp_path / "file" / "models")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_is_a_chat_model_on_the_hub_with_its_licence(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]

    assert preset.kind == "chat"
    assert preset.source.startswith("hf:")
    assert preset.source.endswith(".gguf")
    assert preset.license == "Apache-2.0"
    assert find(name, preset, tmp_path) is None
