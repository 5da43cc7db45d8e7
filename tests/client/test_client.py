"""The client, both twins, against a server that misbehaves and one that does not."""

import base64
import inspect
import json
import struct
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from galley.client import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    BadRequestError,
    Client,
    NotFoundError,
    RateLimitError,
    ServerError,
    UnprocessableError,
)
from galley.schemas.chat import Message
from tests.loopback import HANG, Script, events, http, scripted_server

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> type[Client] | type[AsyncClient]:
    return request.param


async def ask(
    kind: type[Client] | type[AsyncClient],
    script: Script,
    method: str,
    *args: Any,
    timeout_s: float = 10,
    **options: Any,
) -> Any:
    """Call `method` on either twin; of a stream, return all of its pieces."""
    if kind is Client:

        def blocking() -> Any:
            with Client(script.base_url, "gk_x", timeout_s=timeout_s) as client:
                result = getattr(client, method)(*args, **options)
                return list(result) if isinstance(result, Generator) else result

        return await anyio.to_thread.run_sync(blocking)
    async with AsyncClient(script.base_url, "gk_x", timeout_s=timeout_s) as client:
        result = getattr(client, method)(*args, **options)
        if isinstance(result, AsyncGenerator):
            return [piece async for piece in result]
        return await result


def sent(script: Script) -> Any:
    return json.loads(script.requests[0].partition(b"\r\n\r\n")[2])


def chunk(text: str | None, index: int = 0) -> str:
    return json.dumps(
        {
            "id": "c",
            "created": 1,
            "model": "m",
            "choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}],
        },
        ensure_ascii=False,
    )


COMPLETION = json.dumps(
    {
        "id": "c",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "from_the_future": True,
    }
)


async def test_a_text_is_one_user_turn_to_the_default_model_with_the_key(kind: Any) -> None:
    with scripted_server(http(COMPLETION)) as script:
        answer = await ask(kind, script, "chat", "hello", temperature=0.5)

    assert answer.choices[0].message.content == "hi"
    assert sent(script) == {
        "model": "galley/chat",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
    }
    assert b"authorization: bearer gk_x" in script.requests[0].lower()


async def test_turns_may_be_messages_or_plain_objects(kind: Any) -> None:
    turns = [Message(role="system", content="be brief"), {"role": "user", "content": "hello"}]
    with scripted_server(http(COMPLETION)) as script:
        await ask(kind, script, "chat", turns, model="other")

    assert sent(script)["model"] == "other"
    assert sent(script)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]


async def test_a_stream_yields_the_first_answers_text_and_keeps_every_character(kind: Any) -> None:
    pieces = [chunk(None), chunk("a\u2028b"), chunk("other", index=1), chunk(" c"), "[DONE]"]
    with scripted_server(events(*pieces)) as script:
        text = await ask(kind, script, "chat_stream", "hello")

    assert text == ["a\u2028b", " c"]
    assert sent(script)["stream"] is True


async def test_chunks_come_whole(kind: Any) -> None:
    with scripted_server(events(chunk("a"), chunk("b", index=1), "[DONE]")) as script:
        chunks = await ask(kind, script, "chat_chunks", "hello", n=2)

    assert [(c.choices[0].index, c.choices[0].delta.content) for c in chunks] == [
        (0, "a"),
        (1, "b"),
    ]


async def test_a_stream_that_breaks_off_is_an_error_and_not_a_short_answer(kind: Any) -> None:
    with (
        scripted_server(events(chunk("half an"))) as script,
        pytest.raises(APIConnectionError, match="broke off"),
    ):
        await ask(kind, script, "chat_stream", "hello")


async def test_an_error_in_mid_stream_is_raised_with_its_message(kind: Any) -> None:
    failed = '{"error": {"message": "The model failed.", "code": "engine_failed"}}'
    with (
        scripted_server(events(chunk("a"), failed, "[DONE]")) as script,
        pytest.raises(APIError, match=r"The model failed\.") as caught,
    ):
        await ask(kind, script, "chat_stream", "hello")

    assert caught.value.code == "engine_failed"


async def test_a_stream_that_is_refused_says_why(kind: Any) -> None:
    refused = http('{"detail": "Invalid API key"}', status="401 Unauthorized")
    with (
        scripted_server(refused) as script,
        pytest.raises(AuthenticationError, match="Invalid API key"),
    ):
        await ask(kind, script, "ask_stream", "hello")


async def test_the_simple_routes_give_text(kind: Any) -> None:
    with scripted_server(http('{"response": "hi"}')) as script:
        whole = await ask(kind, script, "ask", "hello", model="m", temperature=0.5, max_tokens=9)
        sent = json.loads(script.requests[0].partition(b"\r\n\r\n")[2])
    with scripted_server(events('{"delta": "h"}', '{"delta": "i"}', "[DONE]")) as script:
        pieces = await ask(kind, script, "ask_stream", "hello")

    assert whole == "hi"
    assert sent == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "m",
        "temperature": 0.5,
        "max_tokens": 9,
    }
    assert pieces == ["h", "i"]


async def test_vectors_travel_as_base64_and_come_back_in_order(kind: Any) -> None:
    rows = [[0.25, -1.0], [3.0, 0.5]]
    packed = [base64.b64encode(struct.pack("<2f", *row)).decode() for row in rows]
    data = [{"index": i, "embedding": packed[i]} for i in (1, 0)]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    with scripted_server(http(json.dumps({"data": data, "model": "m", "usage": usage}))) as script:
        vectors = await ask(kind, script, "embed", ["a", "b"])

    assert vectors == rows
    assert sent(script)["encoding_format"] == "base64"


async def test_documents_come_back_by_their_places_the_best_first(kind: Any) -> None:
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": -2}]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    said = json.dumps({"model": "m", "results": results, "usage": usage})
    with scripted_server(http(said)) as script:
        reply = await ask(kind, script, "rerank", "q", ["a", "b", "c"], top_n=2)

    assert [(r.index, r.relevance_score) for r in reply.results] == [(1, 0.9), (0, -2.0)]
    assert sent(script) == {
        "model": "galley/rerank", "query": "q", "documents": ["a", "b", "c"], "top_n": 2,
    }  # fmt: skip


async def test_pictures_are_bytes_or_paths(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "cup.png").write_bytes(b"PNG")
    timings = dict.fromkeys(("decode", "queue", "inference", "total"), 0)
    reply = {"model": "m", "results": [], "request_id": "r", "timings_ms": timings}
    with scripted_server(http(json.dumps(reply))) as script:
        await ask(kind, script, "classify_many", [b"PNG", tmp_path / "cup.png"], top_k=3)

    assert sent(script) == {
        "images": [{"image": "UE5H"}, {"image": "UE5H", "filename": "cup.png"}],
        "top_k": 3,
    }


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        ("400 Bad Request", '{"error": {"message": "no", "code": "c"}}', BadRequestError, "no"),
        ("404 Not Found", '{"error": {"message": "gone"}}', NotFoundError, "gone"),
        ("401 Unauthorized", '{"detail": "Invalid API key"}', AuthenticationError, "Invalid"),
        (
            "422 Unprocessable Content",
            '{"detail": [{"loc": ["body", "messages", 0], "msg": "too short"}]}',
            UnprocessableError,
            r"messages\.0: too short",
        ),
        ("502 Bad Gateway", "<html>nginx</html>", ServerError, "answered 502 without saying why"),
        ("418 I'm a teapot", "[]", APIError, "answered 418"),
    ],
)
async def test_a_refusal_in_any_dialect_becomes_the_error_of_its_status(
    kind: Any, status: str, body: str, error: type[APIError], message: str
) -> None:
    with (
        scripted_server(http(body, status=status, request_id="0192")) as script,
        pytest.raises(error, match=message) as caught,
    ):
        await ask(kind, script, "usage")

    assert caught.value.status == int(status[:3])
    assert caught.value.request_id == "0192"


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Fri, 31 Dec 2100 23:59:59 GMT", None)]
)
async def test_retry_after_is_handed_on_and_nothing_is_tried_twice(
    kind: Any, header: str, seconds: float | None
) -> None:
    busy = http('{"detail": "Slow down"}', status="429 Too Many Requests", retry_after=header)
    with (
        scripted_server(busy) as script,
        pytest.raises(RateLimitError) as caught,
    ):
        await ask(kind, script, "usage")

    assert caught.value.retry_after == seconds
    assert len(script.requests) == 1


async def test_an_answer_of_some_other_server_is_an_error(kind: Any) -> None:
    with (
        scripted_server(http("<html>welcome</html>", type_="text/html")) as script,
        pytest.raises(APIError, match="Is there a Galley server"),
    ):
        await ask(kind, script, "models")


async def test_no_server_is_an_error_that_says_what_to_do(kind: Any) -> None:
    nobody = Script([], base_url="http://127.0.0.1:9")

    with pytest.raises(APIConnectionError, match="galley serve"):
        await ask(kind, nobody, "models")


async def test_a_connection_that_breaks_within_an_answer_is_an_error(kind: Any) -> None:
    with (
        scripted_server(http(COMPLETION)[:-10]) as script,
        pytest.raises(APIConnectionError, match="broke"),
    ):
        await ask(kind, script, "chat", "hello")


async def test_an_answer_that_does_not_come_is_a_timeout(kind: Any) -> None:
    with (
        scripted_server([HANG]) as script,
        pytest.raises(APITimeoutError, match="did not answer in time"),
    ):
        await ask(kind, script, "chat", "hello", timeout_s=0.2)


def test_closing_a_stream_hangs_up() -> None:
    with scripted_server([events(chunk("a")), HANG]) as script, Client(script.base_url) as client:
        stream = client.chat_stream("hello")
        first = next(stream)
        stream.close()

        assert first == "a"
        assert script.hung_up.wait(5)


async def test_closing_an_async_stream_hangs_up() -> None:
    with scripted_server([events(chunk("a")), HANG]) as script:
        async with AsyncClient(script.base_url) as client:
            stream = client.chat_stream("hello")
            first = await anext(stream)
            await stream.aclose()

            assert first == "a"
            assert await anyio.to_thread.run_sync(script.hung_up.wait, 5)


def test_the_twins_have_the_same_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: [str(p) for p in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name not in {"close", "aclose"}
        }

    assert public(Client) == public(AsyncClient)
