import asyncio
import io
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.base import Classified
from galley.engines.batched_classifier import BatchedClassifier
from galley.engines.onnx_classifier import open_classifier
from galley.engines.weights import WeightsError
from galley.services.sources import find
from tests.engines.orientation import page, write_orientation
from tests.engines.picture_models import expected, png, write_export, write_graph

pytestmark = pytest.mark.anyio

PHOTOS = Path(__file__).parent.parent / "data" / "photos"
CAT = (PHOTOS / "cat.jpg").read_bytes()


@pytest.fixture(scope="session")
def weights(models_dir: Path) -> Path:
    name = "efficientnet-lite0"
    path = find(name, EMBEDDED_MODELS[name], models_dir)
    assert path is not None
    return path


@pytest.fixture(scope="session")
def orientation(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_orientation(tmp_path_factory.mktemp("orientation"), models_dir)


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[BatchedClassifier]:
    classifier = await asyncio.to_thread(open_classifier, path, 1)
    try:
        yield classifier
    finally:
        await classifier.aclose()


@pytest.fixture(scope="session")
def efficientnet(weights: Path) -> Generator[BatchedClassifier]:
    classifier = open_classifier(weights, 1)
    yield classifier
    asyncio.run(classifier.aclose())


async def classified(classifier: BatchedClassifier, *images: bytes) -> list[Classified]:
    found = await classifier.classify(images)
    return [one for one in found if isinstance(one, Classified)]


def best(classifier: BatchedClassifier, found: Classified, count: int) -> list[str]:
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
    photo: str, right: set[str], efficientnet: BatchedClassifier
) -> None:
    (found,) = await classified(efficientnet, (PHOTOS / f"{photo}.jpg").read_bytes())

    assert set(best(efficientnet, found, len(right))) == right


async def test_probabilities_sum_to_one_and_sizes_and_times_are_told(
    efficientnet: BatchedClassifier,
) -> None:
    (found,) = await classified(efficientnet, CAT)

    assert found.probabilities.shape == (1000,)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (found.width, found.height) == (451, 300)
    assert found.decode_ms > 0
    assert found.queue_ms > 0
    assert found.inference_ms > 0


async def test_a_bad_picture_does_not_spoil_the_others(efficientnet: BatchedClassifier) -> None:
    found = await efficientnet.classify([CAT, b"no picture", CAT[:5000], CAT])

    assert [type(one) for one in found] == [
        Classified,
        BadRequestError,
        BadRequestError,
        Classified,
    ]


async def test_results_come_in_the_order_of_the_pictures(efficientnet: BatchedClassifier) -> None:
    photos = [(PHOTOS / f"{name}.jpg").read_bytes() for name in ("coffee", "rocket")] * 15

    found = await classified(efficientnet, *photos)

    labels = [best(efficientnet, one, 1)[0] for one in found]
    assert labels == ["espresso", "missile"] * 15


async def test_a_turned_photograph_is_classified_and_measured_upright(
    efficientnet: BatchedClassifier,
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


async def test_an_exported_classifier_reads_pictures_as_its_files_say(tmp_path: Path) -> None:
    async with opened(write_export(tmp_path)) as classifier:
        (found,) = await classified(classifier, png((255, 102, 0)))

    assert classifier.labels == ["red", "green", "blue"]
    assert np.allclose(found.probabilities, expected((255, 102, 0)), atol=1e-5)
    assert (found.width, found.height) == (60, 40)


@pytest.mark.parametrize(
    "graph",
    [
        {"channels_last": True},
        {"kind": TensorProto.FLOAT16},
        {"kind": TensorProto.DOUBLE},
        {"kind": TensorProto.UINT8, "own_norm": True},
        {"kind": TensorProto.UINT8, "own_norm": True, "channels_last": True},
        {"side": "side"},
        {"side": "side", "channels_last": True},
        {"side": "side", "channels": "colours"},
        {"output": "scores"},
        {"flat": False},
        {"softmax": True},
        {"softmax": True, "output": "probabilities"},
        {"batch": 1},
        {"batch": 3, "softmax": True},
        {"batch": 4, "channels_last": True},
    ],
    ids=str,
)
async def test_graphs_of_every_layout_say_the_same(graph: dict[str, Any], tmp_path: Path) -> None:
    colours = [(255, 102, 0), (0, 255, 0), (9, 9, 200), (128, 128, 128), (255, 0, 255)]

    async with opened(write_export(tmp_path, **graph)) as classifier:
        found = await classified(classifier, *map(png, colours))

    for one, colour in zip(found, colours, strict=True):
        assert np.allclose(one.probabilities, expected(colour), atol=1e-2)
        assert one.probabilities.sum() == pytest.approx(1, abs=1e-5)


async def test_a_graph_may_have_any_name_and_lie_beside_others(tmp_path: Path) -> None:
    write_export(tmp_path, side=99)  # a model.onnx that nobody asked for
    write_graph(tmp_path / "colours-int8.onnx")

    async with opened(tmp_path / "colours-int8.onnx") as classifier:
        (found,) = await classified(classifier, png((0, 255, 0)))

    assert best(classifier, found, 1) == ["green"]


@pytest.mark.parametrize("source", [".", "onnx/model.onnx"])
async def test_a_graph_may_lie_below_its_files_as_in_repositories(
    source: str, tmp_path: Path
) -> None:
    write_export(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")

    async with opened(tmp_path / source) as classifier:
        (found,) = await classified(classifier, png((0, 0, 255)))

    assert best(classifier, found, 1) == ["blue"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": 4}, r"\(3,\) numbers for 4 labels"),
        ({"side": 99}, "reads pictures of 99 x 99 pixels, .* prepare 16 x 16"),
        ({"channels": 1}, "needed is one input, numbers of pictures x 3"),
        ({"kind": TensorProto.INT64}, "needed is one input, numbers of pictures x 3"),
        ({"preparation": {"image_mean": [1, 2]}}, "how to prepare"),
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


def test_what_is_no_graph_is_refused_by_its_name(tmp_path: Path) -> None:
    write_export(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")

    with pytest.raises(WeightsError, match=r"model\.onnx cannot be loaded by ONNX Runtime"):
        open_classifier(tmp_path, 1)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
async def test_a_published_model_of_another_architecture_knows_which_way_a_page_is_turned(
    angle: int, orientation: Path
) -> None:
    async with opened(orientation) as classifier:
        (found,) = await classified(classifier, page(angle))

    assert best(classifier, found, 1) == [f"{angle} degrees"]
    assert found.probabilities.max() > 0.9
