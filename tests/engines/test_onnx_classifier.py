import asyncio
import io
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from PIL import Image

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.base import Classified
from galley.engines.onnx_classifier import OnnxClassifier, open_classifier, read_labels
from galley.engines.weights import WeightsError
from galley.services.sources import find
from tests.engines.sentence_models import write_json

pytestmark = pytest.mark.anyio

PHOTOS = Path(__file__).parent.parent / "data" / "photos"
CAT = (PHOTOS / "cat.jpg").read_bytes()
# What an exported classifier says of its pictures unless a test says otherwise.
PREPARATION: dict[str, Any] = {
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


@pytest.fixture(scope="session")
def weights(models_dir: Path) -> Path:
    name = "efficientnet-lite0"
    path = find(name, EMBEDDED_MODELS[name], models_dir)
    assert path is not None
    return path


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[OnnxClassifier]:
    classifier = await asyncio.to_thread(open_classifier, path, 1)
    try:
        yield classifier
    finally:
        await classifier.aclose()


@pytest.fixture(scope="session")
def efficientnet(weights: Path) -> Generator[OnnxClassifier]:
    classifier = open_classifier(weights, 1)
    yield classifier
    asyncio.run(classifier.aclose())


async def classified(classifier: OnnxClassifier, *images: bytes) -> list[Classified]:
    found = await classifier.classify(images)
    return [one for one in found if isinstance(one, Classified)]


def best(classifier: OnnxClassifier, found: Classified, count: int) -> list[str]:
    return [str(classifier.labels[i]) for i in np.argsort(-found.probabilities)[:count]]


@pytest.mark.parametrize(
    ("photo", "right"),
    [
        ("cat", {"tiger cat", "Egyptian cat", "tabby"}),
        ("coffee", {"espresso", "cup"}),
        ("rocket", {"missile", "projectile"}),
    ],
)
async def test_photographs_are_recognised(
    photo: str, right: set[str], efficientnet: OnnxClassifier
) -> None:
    (found,) = await classified(efficientnet, (PHOTOS / f"{photo}.jpg").read_bytes())

    assert set(best(efficientnet, found, len(right))) == right


async def test_probabilities_sum_to_one_and_sizes_and_times_are_told(
    efficientnet: OnnxClassifier,
) -> None:
    (found,) = await classified(efficientnet, CAT)

    assert found.probabilities.shape == (1000,)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (found.width, found.height) == (451, 300)
    assert found.decode_ms > 0
    assert found.queue_ms > 0
    assert found.inference_ms > 0


async def test_a_bad_picture_does_not_spoil_the_others(efficientnet: OnnxClassifier) -> None:
    found = await efficientnet.classify([CAT, b"no picture", CAT[:5000], CAT])

    assert [type(one) for one in found] == [
        Classified,
        BadRequestError,
        BadRequestError,
        Classified,
    ]


async def test_results_come_in_the_order_of_the_pictures(efficientnet: OnnxClassifier) -> None:
    photos = [(PHOTOS / f"{name}.jpg").read_bytes() for name in ("coffee", "rocket")] * 15

    found = await classified(efficientnet, *photos)

    labels = [best(efficientnet, one, 1)[0] for one in found]
    assert labels == ["espresso", "missile"] * 15


async def test_a_turned_photograph_is_classified_and_measured_upright(
    efficientnet: OnnxClassifier,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown, it is turned right by a quarter
    file = io.BytesIO()
    Image.open(PHOTOS / "coffee.jpg").transpose(Image.Transpose.ROTATE_90).save(
        file, "JPEG", quality=95, exif=exif
    )

    (found,) = await classified(efficientnet, file.getvalue())

    assert (found.width, found.height) == (600, 400)
    assert best(efficientnet, found, 1) == ["espresso"]


async def test_after_closing_it_refuses(weights: Path) -> None:
    async with opened(weights) as classifier:
        await classifier.aclose()

        with pytest.raises(OverloadedError):
            await classifier.classify([CAT])
        assert classifier.problem


async def test_the_second_start_reads_the_graph_that_the_first_one_built(
    weights: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy2(weights, tmp_path))
    async with opened(copy) as classifier:
        (first,) = await classified(classifier, CAT)
    built = files(tmp_path)

    async with opened(copy) as classifier:
        (second,) = await classified(classifier, CAT)

    assert np.array_equal(first.probabilities, second.probabilities)
    assert files(tmp_path) == built
    assert len(built) == 2


def files(folder: Path) -> dict[str, int]:
    """Every file by name, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_labels_are_the_thousand_of_imagenet_in_their_order() -> None:
    labels = read_labels()

    assert len(labels) == len(set(labels)) == 1000
    known = {0: "tench", 281: "tabby", 388: "giant panda", 809: "soup bowl", 999: "toilet tissue"}
    assert {number: labels[number] for number in known} == known


def write_export(
    folder: Path, *, side: int | str = 16, labels: int = 3, **preparation: Any
) -> Path:
    """Write a classifier whose logits are the means of red, green and blue."""
    nodes: list[NodeProto] = [
        helper.make_node("ReduceMean", ["pixel_values"], ["logits"], axes=[2, 3], keepdims=0)
    ]
    shape: list[Any] = ["batch", 3, side, side]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "means",
            [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    names = dict(enumerate(["red", "green", "blue", "infrared"][:labels]))
    write_json(folder / "config.json", {"id2label": names})
    write_json(folder / "preprocessor_config.json", PREPARATION | preparation)
    return folder


def png(colour: tuple[int, int, int], size: tuple[int, int] = (60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(logits) / np.exp(logits).sum()


async def test_an_exported_classifier_reads_pictures_as_its_files_say(tmp_path: Path) -> None:
    async with opened(write_export(tmp_path)) as classifier:
        (found,) = await classified(classifier, png((255, 102, 0)))

    assert classifier.labels == ["red", "green", "blue"]
    expected = softmax((np.array([255, 102, 0]) / 255 - 0.5) / 0.25)
    assert np.allclose(found.probabilities, expected, atol=1e-5)
    assert (found.width, found.height) == (60, 40)


@pytest.mark.parametrize(
    ("preparation", "expected"),
    [
        ({"do_rescale": False, "do_normalize": False}, [2, 1, 0]),
        ({"do_normalize": False}, [2 / 255, 1 / 255, 0]),
        ({"do_normalize": False, "rescale_factor": 0.5}, [1, 0.5, 0]),
    ],
)
async def test_scaling_and_norm_can_be_switched_off(
    preparation: dict[str, Any], expected: list[float], tmp_path: Path
) -> None:
    async with opened(write_export(tmp_path, **preparation)) as classifier:
        (found,) = await classified(classifier, png((2, 1, 0)))

    assert np.allclose(found.probabilities, softmax(np.array(expected)), atol=1e-5)


@pytest.mark.parametrize(
    "preparation",
    [
        {"size": {"height": 16, "width": 16}, "do_center_crop": False},
        {"size": 20, "crop_size": 16},
        {"size": {"shortest_edge": 16}, "crop_pct": 0.875, "do_center_crop": None},
    ],
)
async def test_every_way_to_write_a_size_gives_what_the_graph_reads(
    preparation: dict[str, Any], tmp_path: Path
) -> None:
    async with opened(write_export(tmp_path, **preparation)) as classifier:
        (found,) = await classified(classifier, png((255, 0, 0), (31, 77)))

    assert best(classifier, found, 1) == ["red"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": 4}, r"\(3,\) numbers for 4 labels"),
        ({"side": 99}, r"(?s)does not fit .* 99"),
        ({"size": {"shortest_edge": 16}, "do_center_crop": False}, "without a crop"),
        ({"image_mean": [1, 2]}, "how to prepare"),
        ({"size": "large"}, "how to prepare"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=complaint):
        open_classifier(write_export(tmp_path, **change), 1)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.onnx"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_export(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(WeightsError, match=name):
        open_classifier(tmp_path, 1)
