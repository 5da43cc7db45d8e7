"""The simple chat: its shapes are a contract, to the letter."""

from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer
from tests.sse import DONE, read_events

BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is FastAPI?"}],
    "temperature": 0.7,
    "max_tokens": 4,
}
CHAT = [
    "/chat",
    "/v1/chat",
    "/v1/conversation",
    "/api/chat",
    "/api/v1/chat",
    "/api/v1/conversation",
]
STREAM = ["/chat/stream", "/v1/chat/stream", "/api/chat/stream", "/api/v1/chat/stream"]


@pytest.mark.parametrize("path", CHAT)
def test_the_answer_is_one_text(live_server: LiveServer, path: str) -> None:
    answer = live_server.post(path, **BODY)

    assert answer.status_code == 200
    assert list(answer.json()) == ["response"]
    assert answer.json()["response"].strip()


@pytest.mark.parametrize("path", STREAM)
def test_the_stream_has_a_delta_per_piece_and_ends_with_done(
    live_server: LiveServer, path: str
) -> None:
    answer = live_server.post(path, **BODY | {"temperature": 0})

    *pieces, end = read_events(answer)
    assert end == DONE
    assert all(list(piece) == ["delta"] for piece in pieces)
    assert [piece["delta"] for piece in pieces] == ["Fast", "API", " is", " a"]


def test_the_wire_is_what_the_contract_shows(live_server: LiveServer) -> None:
    answer = live_server.post("/chat/stream", **BODY | {"temperature": 0, "max_tokens": 1})

    assert answer.content == b'data: {"delta":"Fast"}\n\ndata: [DONE]\n\n'


def test_the_stream_is_the_whole_answer_in_pieces(live_server: LiveServer) -> None:
    whole = live_server.post("/chat", **BODY | {"temperature": 0}).json()["response"]

    pieces = read_events(live_server.post("/chat/stream", **BODY | {"temperature": 0}))[:-1]

    assert "".join(piece["delta"] for piece in pieces) == whole


@pytest.mark.parametrize("path", [*CHAT, *STREAM])
def test_a_body_that_does_not_fit_gets_fastapis_list(live_server: LiveServer, path: str) -> None:
    refused = live_server.post(path, temperature=0.7, unheard="of")

    assert refused.status_code == 422
    assert refused.json() == {
        "detail": [
            {"type": "missing", "loc": ["body", "messages"], "msg": "Field required"},
            {
                "type": "extra_forbidden",
                "loc": ["body", "unheard"],
                "msg": "Extra inputs are not permitted",
            },
        ]
    }


@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
def test_refusals_of_a_model_are_a_sentence(live_server: LiveServer, path: str) -> None:
    unknown = live_server.post(path, **BODY, model="no-such-model")
    wrong = live_server.post(path, **BODY, model="galley/embeddings")

    assert unknown.status_code == 404
    assert "no-such-model" in unknown.json()["detail"]
    assert wrong.status_code == 400
    assert list(wrong.json()) == ["detail"]


@pytest.mark.parametrize("path", [*CHAT, *STREAM])
def test_nobody_gets_in_without_a_key(live_server: LiveServer, path: str) -> None:
    unknown = httpx2.post(
        live_server.url + path, json=BODY, headers={"authorization": "Bearer gk_wrong"}
    )

    assert unknown.status_code == 401
    assert unknown.json() == {"detail": "Invalid API key"}
    assert unknown.headers["www-authenticate"] == "Bearer"


def test_the_ledger_knows_what_it_cost(live_server: LiveServer) -> None:
    row = live_server.row(live_server.post("/chat/stream", **BODY))

    assert (row["endpoint"], row["state"], row["stream"]) == ("chat", "completed", 1)
    assert (row["served_model"], row["completion_tokens"]) == ("smollm2-135m-instruct", 4)
    assert row["prompt_tokens"] > 10
    assert 0 < row["first_token_ms"] <= row["response_time_ms"]
