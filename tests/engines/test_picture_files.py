from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from galley.engines.picture_files import PictureFiles, imagenet_labels
from galley.engines.pictures import Frame
from galley.engines.weights import WeightsError
from tests.engines.picture_models import PREPARATION
from tests.engines.sentence_models import write_json

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
# As timm writes it to a hub.
TIMM: dict[str, Any] = {
    "tag": "a1_in1k",
    "input_size": [3, 224, 224],
    "test_input_size": [3, 288, 288],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "test_crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "num_classes": 1000,
}


def test_labels_are_the_thousand_of_imagenet_in_their_order() -> None:
    labels = imagenet_labels()

    assert len(labels) == len(set(labels)) == 1000
    known = {0: "tench", 281: "tabby", 388: "giant panda", 809: "soup bowl", 999: "toilet tissue"}
    assert {number: labels[number] for number in known} == known


def written(folder: Path, **files: Any) -> PictureFiles:
    """The files of a classifier, each given by its name without `.json`."""
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return PictureFiles.read(folder)


@pytest.mark.parametrize(
    ("change", "frame"),
    [
        ({}, Frame(20, (16, 16), BICUBIC)),
        ({"size": 20, "crop_size": 16, "resample": 2}, Frame(20, (16, 16), BILINEAR)),
        (
            {"size": {"height": 12, "width": 24}, "do_center_crop": False},
            Frame((12, 24), (12, 24), BICUBIC),
        ),
        ({"size": {"height": 32, "width": 32}}, Frame((32, 32), (16, 16), BICUBIC)),
        ({"size": {"shortest_edge": 14}, "crop_pct": 0.875}, Frame(16, (14, 14), BICUBIC)),
        ({"size": 384, "crop_pct": 0.875}, Frame((384, 384), (384, 384), BICUBIC)),
    ],
)
def test_every_way_to_write_a_size_is_read(
    change: dict[str, Any], frame: Frame, tmp_path: Path
) -> None:
    files = written(tmp_path, preprocessor_config=PREPARATION | change)

    assert files.preparation().frame == frame


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ({}, [(2 / 255 - 0.5) / 0.25, (1 / 255 - 0.5) / 0.25, -2]),
        ({"do_rescale": False, "do_normalize": False}, [2, 1, 0]),
        ({"do_normalize": False}, [2 / 255, 1 / 255, 0]),
        ({"do_normalize": False, "rescale_factor": 0.5}, [1, 0.5, 0]),
    ],
)
def test_scaling_and_norm_can_be_switched_off(
    change: dict[str, Any], numbers: list[float], tmp_path: Path
) -> None:
    files = written(tmp_path, preprocessor_config=PREPARATION | change)
    pixel = np.array([[[2, 1, 0]]], np.uint8)

    assert np.allclose(files.preparation().normed([pixel]), [[[numbers]]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": {"shortest_edge": 16}, "do_center_crop": False}, "without a crop"),
        ({"do_resize": False}, "without do_resize"),
        ({"image_mean": [1, 2]}, "cannot reshape"),
        ({"image_std": [1, 0, 1]}, "deviation is 0"),
        ({"size": "large"}, "must be integers"),
        ({"size": {"longest_edge": 16}}, "height"),
        ({"size": {"height": 0, "width": 16}}, "from 1 to 4096"),
        ({"size": {"shortest_edge": 10**9}}, "from 1 to 4096"),
        ({"crop_pct": 0}, "zero"),
        ({"resample": 77}, "77"),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_the_file_and_the_reason(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    files = written(tmp_path, preprocessor_config=PREPARATION | change)

    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json .*{complaint}"):
        files.preparation()


def test_a_processor_of_several_parts_has_its_picture_part_read(tmp_path: Path) -> None:
    files = written(tmp_path, processor_config={"image_processor": PREPARATION})

    assert files.preparation().frame == Frame(20, (16, 16), BICUBIC)


@pytest.mark.parametrize(
    ("change", "size", "frame"),
    [
        ({}, None, Frame(235, (224, 224), BICUBIC)),
        ({}, (224, 224), Frame(235, (224, 224), BICUBIC)),
        ({}, (288, 288), Frame(288, (288, 288), BICUBIC)),
        ({}, (256, 256), Frame(269, (256, 256), BICUBIC)),
        ({"interpolation": "bilinear"}, None, Frame(235, (224, 224), BILINEAR)),
        ({"crop_mode": "squash"}, None, Frame((235, 235), (224, 224), BICUBIC)),
        ({"crop_mode": "squash"}, (112, 224), Frame((117, 235), (112, 224), BICUBIC)),
    ],
)
def test_a_model_of_timm_prepares_pictures_of_the_size_that_its_graph_reads(
    change: dict[str, Any], size: tuple[int, int] | None, frame: Frame, tmp_path: Path
) -> None:
    files = written(tmp_path, config={"pretrained_cfg": TIMM | change})

    found = files.preparation(size)

    assert found.frame == frame
    assert np.allclose(found.scale * 255, [1 / 0.229, 1 / 0.224, 1 / 0.225])
    assert np.allclose(found.shift, np.array(TIMM["mean"]) / TIMM["std"])


@pytest.mark.parametrize(
    "change", [{"crop_mode": "border"}, {"input_size": [3, 100, 200]}, {"interpolation": "magic"}]
)
def test_what_timm_alone_can_do_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    files = written(tmp_path, config={"pretrained_cfg": TIMM | change})

    with pytest.raises(WeightsError, match=r"config\.json does not say how to prepare"):
        files.preparation()


def test_labels_come_from_the_first_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ship\n\n harbour seal \nquay\n", encoding="utf-8")
    by_transformers = {"id2label": {"1": "dog", "0": "cat"}}
    by_timm = {"pretrained_cfg": TIMM | {"label_names": ["oak", "elm"]}}

    assert written(tmp_path, config=by_transformers).labels() == ["cat", "dog"]
    assert written(tmp_path, config=by_timm).labels() == ["oak", "elm"]
    assert written(tmp_path, config={}).labels() == ["ship", "harbour seal", "quay"]


def test_a_model_of_timm_that_was_trained_on_imagenet_has_its_labels(tmp_path: Path) -> None:
    assert written(tmp_path, config={"pretrained_cfg": TIMM}).labels() == imagenet_labels()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "names no labels: config.json needs id2label, or write labels.txt"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label that counts from 0"),
        ({"id2label": ["a", "b"]}, "id2label that counts from 0"),
        ({"problem_type": "multi_label_classification"}, "any number of labels"),
    ],
)
def test_labels_that_are_not_there_or_mean_something_else_are_refused(
    config: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    files = written(tmp_path, config=config)

    with pytest.raises(WeightsError, match=complaint):
        files.labels()


def test_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9\n")

    with pytest.raises(WeightsError, match=r"labels\.txt cannot be read"):
        written(tmp_path, config={}).labels()
