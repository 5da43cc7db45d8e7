"""Pictures, in both versions of the route and at every place it is mounted."""

import base64
import io
import re
import textwrap
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from galley.core.security import make_key
from galley.schemas.classify import ClassifyBatchReply, ClassifyReply, ClassifyRequest
from tests.serving import LiveServer

PHOTOS = Path(__file__).parent.parent / "data" / "photos"
CAT = (PHOTOS / "cat.jpg").read_bytes()
FIRST = ["/classify", "/v1/classify", "/v1/image_classify"]
SECOND = ["/v2/classify", "/v2/image_classify"]
SEEN = {
    "cat.jpg": {"Egyptian cat", "tiger cat", "tabby"},
    "coffee.jpg": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile"},
}


def text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def labels_of(result: dict[str, Any]) -> list[str]:
    return [prediction["label"] for prediction in result["predictions"]]


@pytest.mark.parametrize("name", SEEN)
def test_photographs_are_recognised(live_server: LiveServer, name: str) -> None:
    picture = text((PHOTOS / name).read_bytes())

    answer = live_server.post("/classify", image=picture, filename=name)

    body = answer.json()
    ClassifyReply.model_validate(body)
    assert list(body) == ["predictions", "model"]
    assert labels_of(body)[0] in SEEN[name]
    shares = [prediction["confidence"] for prediction in body["predictions"]]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert all(list(p) == ["label", "confidence"] for p in body["predictions"])
    assert body["model"] == "efficientnet-lite0"


def test_the_first_version_is_frozen_to_the_letter(live_server: LiveServer) -> None:
    sent = {"image": text(CAT), "filename": None}

    answer = live_server.post("/v1/classify", **sent)

    assert answer.headers["content-type"] == "application/json"
    shares = dict(re.findall(rb'\{"label":"([^"]+)","confidence":(0\.\d{1,4})\}', answer.content))
    parts = b",".join(b'{"label":"%s","confidence":%s}' % pair for pair in shares.items())
    assert answer.content == b'{"predictions":[%s],"model":"efficientnet-lite0"}' % parts
    assert list(shares)[:3] == [b"Egyptian cat", b"tiger cat", b"tabby"]
    assert len(shares) == 5
    assert float(shares[b"Egyptian cat"]) == pytest.approx(0.3724, abs=0.01)


def test_the_first_versions_schema_is_frozen() -> None:
    string, missing = {"type": "string"}, {"type": "null"}
    request, reply = ClassifyRequest.model_json_schema(), ClassifyReply.model_json_schema()

    assert request["required"] == ["image"]
    assert request["additionalProperties"] is False
    assert set(request["properties"]) == {"image", "filename"}
    assert request["properties"]["filename"]["anyOf"] == [string | {"maxLength": 1024}, missing]
    assert request["properties"]["image"] | {"description": ""} == {
        "type": "string", "minLength": 1, "title": "Image", "description": "",
    }  # fmt: skip
    assert reply["required"] == ["predictions", "model"]
    assert set(reply["properties"]) == {"predictions", "model"}
    prediction = reply["$defs"]["Prediction"]
    assert prediction["required"] == ["label", "confidence"]
    assert {n: p["type"] for n, p in prediction["properties"].items()} == {
        "label": "string",
        "confidence": "number",
    }


@pytest.mark.parametrize("path", FIRST)
def test_the_first_versions_refusals_are_frozen(live_server: LiveServer, path: str) -> None:
    image = {"image": text(CAT)}
    wrong = {"authorization": f"Bearer {make_key()}"}

    missing = live_server.post(path)
    more = live_server.post(path, **image, top_k=3)
    stranger = httpx2.post(live_server.url + path, json=image, headers=wrong)

    assert missing.status_code == more.status_code == 422
    assert missing.json() == {
        "detail": [{"type": "missing", "loc": ["body", "image"], "msg": "Field required"}]
    }
    assert [fault["loc"] for fault in more.json()["detail"]] == [["body", "top_k"]]
    assert stranger.status_code == 401
    assert stranger.json() == {"detail": "Invalid API key"}


def test_up_to_32_pictures_in_every_way_to_write_them(live_server: LiveServer) -> None:
    ways = [text(CAT), "data:image/jpeg;base64," + text(CAT), "\n".join(textwrap.wrap(text(CAT)))]
    images = [{"image": ways[n % 3], "filename": f"{n}.jpg"} for n in range(31)]

    answer = live_server.post("/v2/classify", images=[*images, {"image": "!"}], top_k=1)

    *good, bad = answer.json()["results"]
    assert [row["index"] for row in good] == list(range(31))
    assert [row["filename"] for row in good] == [f"{n}.jpg" for n in range(31)]
    assert {labels_of(row)[0] for row in good} == {"Egyptian cat"}
    assert bad["error"] == "Invalid base64 image: Only base64 data is allowed"
    assert live_server.row(answer)["units"] == 31


@pytest.mark.parametrize("as_form", [False, True])
def test_large_pictures_are_read_in_pieces_and_whole(
    live_server: LiveServer, as_form: bool
) -> None:
    """Several megabytes each: more than is decoded, searched or unpacked in one go."""
    pixels = np.random.default_rng(1).integers(0, 256, (1200, 1600, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    large = file.getvalue()
    files = [large, CAT, large[: len(large) // 2]]

    if as_form:
        sent = [("images", ("x", data)) for data in files]
        answer = live_server.client.post("/v2/classify", files=sent)
    else:
        images = [{"image": text(data)} for data in files]
        answer = live_server.post("/v2/classify", images=images)

    noise, cat, cut = answer.json()["results"]
    assert (noise["width"], noise["height"], noise["error"]) == (1600, 1200, None)
    assert labels_of(cat)[0] == "Egyptian cat"
    assert cut["error"] == "The image is damaged or cut off."


@pytest.mark.parametrize("ending", ["A", "!", "=" + "A" * 400_000, "\u00e9"])
def test_long_texts_that_are_no_base64_are_refused_as_short_ones_are(
    live_server: LiveServer, ending: str
) -> None:
    refused = live_server.post("/v1/classify", image="A" * 400_000 + ending)

    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("Invalid base64 image: ")


@pytest.mark.parametrize("path", [p for path in FIRST for p in (path, f"/api{path}")])
@pytest.mark.parametrize(
    "prefix", ["", "data:image/jpeg;base64,", "DATA:IMAGE/JPEG;charset=x;BASE64,"]
)
def test_the_first_version_is_the_same_at_every_mounting(
    live_server: LiveServer, path: str, prefix: str
) -> None:
    answer = live_server.post(path, image=prefix + text(CAT))

    assert answer.status_code == 200, answer.text
    assert labels_of(answer.json())[0] == "Egyptian cat"


@pytest.mark.parametrize("path", [p for path in SECOND for p in (path, f"/api{path}")])
def test_the_second_version_is_the_same_at_every_mounting(
    live_server: LiveServer, path: str
) -> None:
    answer = live_server.post(path, images=[{"image": text(CAT), "filename": "cat.jpg"}])

    body = answer.json()
    ClassifyBatchReply.model_validate(body)
    assert list(body) == ["model", "results", "timings_ms", "request_id"]
    assert body["request_id"] == answer.headers["request-id"]
    (result,) = body["results"]
    assert list(result) == ["index", "filename", "width", "height", "predictions", "error"]
    assert (result["index"], result["filename"], result["error"]) == (0, "cat.jpg", None)
    assert (result["width"], result["height"]) == (451, 300)
    assert result["predictions"][0]["label"] == "Egyptian cat"
    assert result["predictions"][0]["class_id"] == 285
    timings = body["timings_ms"]
    assert list(timings) == ["decode", "queue", "inference", "total"]
    assert 0 < timings["inference"] <= timings["total"]
    assert timings["decode"] > 0


def test_the_second_version_takes_the_firsts_body(live_server: LiveServer) -> None:
    answer = live_server.post("/v2/classify", image=text(CAT), filename="cat.jpg")

    (result,) = answer.json()["results"]
    assert (result["filename"], labels_of(result)[0]) == ("cat.jpg", "Egyptian cat")


@pytest.mark.parametrize("path", FIRST)
def test_a_form_for_the_first_version_is_told_where_files_go(
    live_server: LiveServer, path: str
) -> None:
    refused = live_server.client.post(path, files={"image": ("cat.jpg", CAT)})

    assert refused.status_code == 422
    (fault,) = refused.json()["detail"]
    assert "takes JSON" in fault["msg"]
    assert "/v2/classify" in fault["msg"]


def test_files_may_come_as_a_form(live_server: LiveServer) -> None:
    files = [("images", (name, (PHOTOS / name).read_bytes(), "image/jpeg")) for name in SEEN]

    answer = live_server.client.post(
        "/v2/classify", files=files, data={"top_k": "2", "threshold": "0.05"}
    )

    results = answer.json()["results"]
    assert [result["filename"] for result in results] == list(SEEN)
    for result in results:
        assert labels_of(result)[0] in SEEN[result["filename"]]
        assert len(result["predictions"]) <= 2
        assert all(p["confidence"] >= 0.05 for p in result["predictions"])


def test_a_bad_picture_does_not_spoil_the_others(live_server: LiveServer) -> None:
    bad = ["!", text(b"no picture"), text(CAT[:4000])]
    images = [{"image": image} for image in (*bad, text(CAT))]

    answer = live_server.post("/v2/classify", images=images)

    assert answer.status_code == 200
    *refused, good = answer.json()["results"]
    assert refused[0]["error"] == "Invalid base64 image: Only base64 data is allowed"
    assert "PNG, JPEG, WebP or GIF" in refused[1]["error"]
    assert "damaged or cut off" in refused[2]["error"]
    assert all(r["predictions"] == [] and r["width"] is None for r in refused)
    assert labels_of(good)[0] == "Egyptian cat"
    assert live_server.row(answer)["units"] == 1  # what could not be read is not billed


def test_top_k_and_threshold_choose_the_labels(live_server: LiveServer) -> None:
    everything = live_server.post("/v2/classify", images=[{"image": text(CAT)}], top_k=1000)
    likely = live_server.post("/v2/classify", images=[{"image": text(CAT)}], threshold=0.3)
    nothing = live_server.post("/v2/classify", images=[{"image": text(CAT)}], threshold=1.0)

    predictions = everything.json()["results"][0]["predictions"]
    assert len({prediction["class_id"] for prediction in predictions}) == 1000
    assert sum(p["confidence"] for p in predictions) == pytest.approx(1, abs=0.05)
    assert labels_of(likely.json()["results"][0]) == ["Egyptian cat", "tiger cat"]
    assert nothing.json()["results"][0]["predictions"] == []


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"images": [{"image": "AA=="}] * 33}, ["body", "images"]),
        ({"images": []}, ["body", "images"]),
        ({"images": [{"image": ""}]}, ["body", "images", 0, "image"]),
        ({"images": [{"image": "AA=="}], "top_k": 0}, ["body", "top_k"]),
        ({"images": [{"image": "AA=="}], "top_k": 1001}, ["body", "top_k"]),
        ({"images": [{"image": "AA=="}], "threshold": 1.5}, ["body", "threshold"]),
        ({"images": [{"image": "AA==", "url": "x"}]}, ["body", "images", 0, "url"]),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(
    live_server: LiveServer, body: dict[str, Any], where: list[Any]
) -> None:
    refused = live_server.post("/v2/classify", **body)

    assert refused.status_code == 422
    assert [fault["loc"] for fault in refused.json()["detail"]] == [where]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("no base64 at all!", "Only base64 data is allowed"),
        ("aGVsbG8", "Incorrect padding"),
        ("caf\u00e9", "string argument should contain only ASCII characters"),
        ("https://example.org/cat.jpg", "addresses are not fetched; send the image itself."),
        ("data:text/plain;base64,AA==", "a data URI has to begin with data:image/...;base64,"),
        ("data:image/png,AA", "a data URI has to begin with data:image/...;base64,"),
    ],
)
def test_what_is_no_base64_is_a_400_that_says_so(
    live_server: LiveServer, image: str, reason: str
) -> None:
    refused = live_server.post("/classify", image=image)

    assert refused.status_code == 400
    assert refused.json() == {"detail": f"Invalid base64 image: {reason}"}


def test_a_form_of_too_many_files_is_refused(live_server: LiveServer) -> None:
    files = [("images", ("x.jpg", b"x", "image/jpeg"))] * 33

    refused = live_server.client.post("/v2/classify", files=files)

    assert refused.status_code == 400
    assert "32" in refused.json()["detail"]


def test_a_form_without_files_lacks_images(live_server: LiveServer) -> None:
    refused = live_server.client.post("/v2/classify", files=[("top_k", (None, b"2"))])

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "images"]


@pytest.mark.parametrize(("model", "status"), [("no-such", 404), ("galley/chat", 400)])
def test_the_model_has_to_be_a_classifier(live_server: LiveServer, model: str, status: int) -> None:
    refused = live_server.post("/v2/classify", images=[{"image": text(CAT)}], model=model)

    assert refused.status_code == status
    assert isinstance(refused.json()["detail"], str)


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info", "/api/model/info"])
def test_the_model_can_be_asked_about(live_server: LiveServer, path: str) -> None:
    answer = live_server.client.get(path)

    assert answer.json() == {"name": "efficientnet-lite0", "status": "loaded", "num_labels": 1000}


def test_nobody_gets_in_without_a_key(live_server: LiveServer) -> None:
    for path in (*FIRST, *SECOND):
        refused = httpx2.post(live_server.url + path, json={"image": text(CAT)})

        assert refused.status_code == 401
        assert refused.json()["detail"].startswith("No API key")
