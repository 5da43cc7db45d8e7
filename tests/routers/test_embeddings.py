"""Embeddings, to the letter of OpenAI's specification."""

import base64
import time
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from galley.schemas.embeddings import EmbeddingReply
from tests.serving import LiveServer

CAT = "a cat sits on the mat"
CAT_TOKENS = [1037, 4937, 7719, 2006, 1996, 13523]  # the same in MiniLM's vocabulary


def embed(server: LiveServer, **body: Any) -> httpx2.Response:
    return server.post("/v1/embeddings", **{"model": "galley/embeddings", **body})


def vectors_of(answer: httpx2.Response) -> NDArray[np.float32]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.array([item["embedding"] for item in data], np.float32)


def test_the_answer_has_every_field_of_the_specification(live_server: LiveServer) -> None:
    answer = embed(live_server, input=CAT)

    body = answer.json()
    EmbeddingReply.model_validate(body)
    assert set(body) == {"object", "data", "model", "usage"}
    assert set(body["data"][0]) == {"object", "index", "embedding"}
    assert (body["object"], body["data"][0]["object"]) == ("list", "embedding")
    assert body["model"] == "all-minilm-l6-v2"
    assert body["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert vectors_of(answer).shape == (1, 384)


def test_vectors_are_of_length_one_and_near_for_near_texts(live_server: LiveServer) -> None:
    cat, kitten, stocks = vectors_of(
        embed(live_server, input=[CAT, "a kitten lies on a rug", "shares fell on Monday"])
    )

    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ kitten > cat @ stocks + 0.3


def test_base64_holds_the_same_little_endian_floats(live_server: LiveServer) -> None:
    floats = vectors_of(embed(live_server, input=CAT))

    answer = embed(live_server, input=CAT, encoding_format="base64")

    raw = base64.b64decode(answer.json()["data"][0]["embedding"], validate=True)
    assert np.frombuffer(raw, "<f4") == pytest.approx(floats[0], abs=1e-6)


def test_token_ids_stand_for_their_text(live_server: LiveServer) -> None:
    text = vectors_of(embed(live_server, input=CAT))

    tokens = vectors_of(embed(live_server, input=CAT_TOKENS))
    lists = vectors_of(embed(live_server, input=[CAT_TOKENS, CAT_TOKENS[:2]]))

    assert tokens == pytest.approx(text, abs=1e-5)
    assert lists[0] == pytest.approx(text[0], abs=1e-5)
    assert len(lists) == 2


def test_fewer_dimensions_are_the_first_ones_at_length_one(live_server: LiveServer) -> None:
    whole = vectors_of(embed(live_server, input=CAT))[0]

    short = vectors_of(embed(live_server, input=CAT, dimensions=64))[0]

    assert short == pytest.approx(whole[:64] / np.linalg.norm(whole[:64]), abs=1e-5)


@pytest.mark.parametrize("dimensions", [0, 385, 10**9])
def test_dimensions_that_the_model_lacks_are_refused(
    live_server: LiveServer, dimensions: int
) -> None:
    refused = embed(live_server, input=CAT, dimensions=dimensions)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "dimensions"


def test_2048_inputs_are_taken_and_one_more_is_not(live_server: LiveServer) -> None:
    texts = [f"{number}" for number in range(2048)]

    answer = embed(live_server, input=texts)
    refused = embed(live_server, input=[*texts, "too many"])

    vectors = vectors_of(answer)
    assert vectors.shape == (2048, 384)
    assert vectors[1000] == pytest.approx(vectors_of(embed(live_server, input="1000"))[0], abs=1e-4)
    row = live_server.row(answer)
    assert (row["units"], row["endpoint"]) == (2048, "embeddings")
    assert row["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"] >= 3 * 2048
    assert refused.status_code == 400
    assert "2048" in refused.json()["error"]["message"]


@pytest.mark.parametrize("text", ["word " * 400, [2773] * 400])
def test_what_is_too_long_is_refused_with_both_numbers_or_cut(
    live_server: LiveServer, text: Any
) -> None:
    refused = embed(live_server, input=text)
    cut = embed(live_server, input=text, truncate=True)

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "402" in error["message"]
    assert "256" in error["message"]
    assert cut.json()["usage"]["prompt_tokens"] == 256
    fitting = vectors_of(embed(live_server, input="word " * 254))
    assert vectors_of(cut) == pytest.approx(fitting, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [CAT, ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [30_522]}, "input"),
        ({"input": CAT, "encoding_format": "int8"}, "encoding_format"),
        ({"input": CAT, "inputs": CAT}, "inputs"),
        ({"input": CAT, "model": "galley/chat"}, "model"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    live_server: LiveServer, changes: dict[str, Any], param: str
) -> None:
    refused = embed(live_server, **changes)

    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert refused.json()["error"]["param"] == param


def test_the_user_field_is_accepted_and_recorded(live_server: LiveServer) -> None:
    answer = embed(live_server, input=CAT, user="u-1")

    assert live_server.row(answer)["ignored_fields"] == "user"


def test_a_hang_up_pays_for_the_texts_that_were_run(live_server: LiveServer) -> None:
    texts = [f"{CAT}, the {number}th time it does so" for number in range(2048)]
    headers = {"authorization": f"Bearer {live_server.key_of_new_user()}"}
    asked = {"model": "galley/embeddings", "input": texts}
    with pytest.raises(httpx2.ReadTimeout):
        live_server.client.post("/v1/embeddings", json=asked, headers=headers, timeout=0.5)

    row: dict[str, Any] = {"state": "open"}
    while row["state"] == "open":
        time.sleep(0.05)
        row = live_server.client.get("/v1/requests", headers=headers).json()["data"][0]

    assert row["state"] == "cancelled"
    assert 0 < row["units"] < len(texts)
    assert row["units"] < row["prompt_tokens"] < 20 * len(texts)
