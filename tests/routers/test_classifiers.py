"""Several classifiers behind one server, one of them by its files alone."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings
from tests.engines.orientation import LABELS, page, write_orientation
from tests.serving import LOADING_S, LiveServer, make_settings, serving

CAT = (Path(__file__).parent.parent / "data" / "photos" / "cat.jpg").read_bytes()
EMBEDDED = "efficientnet-lite0"


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("classifiers")
    path = write_orientation(folder, models_dir)
    models = {
        EMBEDDED: EMBEDDED_MODELS[EMBEDDED],
        "pages": ModelSettings(kind="classify", source=f"path:{path}"),
        "broken": ModelSettings(kind="classify", source=f"path:{folder / 'labels.txt'}"),
    }
    settings = make_settings(folder, models_dir, models=models, embedded_models=False)
    with serving(settings) as server:
        end = time.monotonic() + LOADING_S
        while "loading" in (found := states(server)).values():
            assert time.monotonic() < end, found
            time.sleep(0.05)
        yield server


def states(server: LiveServer) -> dict[str, str]:
    rows = server.client.get("/v1/models").json()["data"]
    return {row["id"]: row["status"] for row in rows}


def best(server: LiveServer, picture: bytes, **more: Any) -> tuple[str, str]:
    """Who answers, and what is likeliest."""
    images = [{"image": base64.b64encode(picture).decode()}]
    answer = server.post("/v2/classify", images=images, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], answer.json()["results"][0]["predictions"][0]["label"]


def test_each_classifier_answers_to_its_name_and_the_first_to_none(server: LiveServer) -> None:
    assert best(server, CAT) == (EMBEDDED, "Egyptian cat")
    assert best(server, CAT, model="galley/classify") == (EMBEDDED, "Egyptian cat")
    assert best(server, page(180), model="pages") == ("pages", "180 degrees")


def test_there_are_no_more_labels_than_the_classifier_has(server: LiveServer) -> None:
    images = [{"image": base64.b64encode(page(0)).decode()}]

    answer = server.post("/v2/classify", images=images, model="pages", top_k=1000)

    (result,) = answer.json()["results"]
    assert sorted(p["label"] for p in result["predictions"]) == sorted(LABELS)


def test_one_that_does_not_fit_does_not_stop_the_others(server: LiveServer) -> None:
    images = [{"image": base64.b64encode(CAT).decode()}]

    refused = server.post("/v2/classify", images=images, model="broken")

    assert states(server) == {EMBEDDED: "loaded", "pages": "loaded", "broken": "failed"}
    assert refused.status_code == 503
    assert "The server's log says why" in refused.json()["detail"]
