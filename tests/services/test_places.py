from pathlib import Path

import pytest

from galley.services.places import Place


def fill(place: Place, content: str) -> None:
    with place.filling() as folder:
        (folder / "file").write_text(content)


def interrupt(place: Place) -> None:
    with place.filling() as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["../outside", "..", ".", "a/b", "/etc", "c:\\x", ".hidden", "é"])
def test_a_place_lies_in_the_models_folder_whatever_the_name(name: str, tmp_path: Path) -> None:
    place = Place.of(name, tmp_path, "origin")

    fill(place, "content")

    assert place.folder.resolve().parent == tmp_path.resolve()
    assert not place.folder.name.startswith(".")
    assert place.filled


def test_a_place_is_filled_by_its_own_origin_alone(tmp_path: Path) -> None:
    old, new = Place.of("model", tmp_path, "old"), Place.of("model", tmp_path, "new")
    fill(old, "old")

    assert old.filled
    assert not new.filled


def test_filling_a_place_again_replaces_all_of_it(tmp_path: Path) -> None:
    old, new = Place.of("model", tmp_path, "old"), Place.of("model", tmp_path, "new")
    fill(old, "old")
    (old.folder / "more").touch()

    fill(new, "new")

    assert (new.folder / "file").read_text() == "new"
    assert not (new.folder / "more").exists()
    assert not old.filled
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_filling_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    place = Place.of("model", tmp_path, "origin")
    fill(place, "whole")

    with pytest.raises(KeyboardInterrupt):
        interrupt(place)

    assert (place.folder / "file").read_text() == "whole"
    assert place.filled
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
