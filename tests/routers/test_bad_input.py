"""Bad input is refused in the route's own words, at once, and harms nobody else."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer

OPENAI = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
NATIVE = ["/chat", "/chat/stream", "/classify", "/v2/classify"]
SECRET = "do-not-echo-me"
SLOWEST_S = 5.0
LONGEST_SILENCE_S = 2.0  # the same; a parser that holds up everybody takes ten

MALFORMED = {
    "nothing": b"",
    "no JSON": b"messages=hello",
    "cut off": b'{"messages": [{"role": "user"',
    "a trailing comma": b'{"messages": [],}',
    "two values": b"{} {}",
    "a text": b'"hello"',
    "a list": b"[]",
    "null": b"null",
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": -Infinity}',
    "a number beyond floats": b'{"temperature": 1e999}',
    "a number of 5000 digits": b'{"max_tokens": ' + b"9" * 5000 + b"}",
    "a name given twice": b'{"temperature": 0, "temperature": 1}',
    "a name given twice inside": b'{"messages": [{"role": "user", "role": "system"}]}',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate in a name": b'{"\\udfff": 1}',
    "bad UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a control character": b'{"model": "a\x00b"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a deep field": b'{"metadata": ' + b"[" * 500 + b"]" * 500 + b"}",
    "half a megabyte of nothing": b" " * 500_000,
}


def is_native(path: str) -> bool:
    return path in NATIVE


def assert_refused(answer: httpx2.Response, path: str) -> None:
    """It is a refusal in the words of `path`, and does not quote what was sent."""
    if is_native(path):
        assert answer.status_code in {400, 422}, answer.text
        assert list(answer.json()) == ["detail"]
        if answer.status_code == 422:
            assert all(set(f) == {"type", "loc", "msg"} for f in answer.json()["detail"])
    else:
        assert answer.status_code == 400, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 4_000
    assert SECRET not in answer.text


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("path", [*OPENAI, *NATIVE])
def test_malformed_json_is_refused(live_server: LiveServer, path: str, body: bytes) -> None:
    began = time.monotonic()
    answer = live_server.client.post(path, content=body)

    assert time.monotonic() - began < SLOWEST_S
    assert_refused(answer, path)


def message(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"} | changes]}


WRONG: dict[str, dict[str, Any]] = {
    "no messages": {},
    "empty messages": {"messages": []},
    "messages that are a text": {"messages": SECRET},
    "a message that is a text": {"messages": [SECRET]},
    "an unknown role": message(role=SECRET),
    "content that is a number": message(content=5),
    "no parts": message(content=[]),
    "a part of an unknown kind": message(content=[{"type": SECRET, "text": SECRET}]),
    "a part without text": message(content=[{"type": "text"}]),
    "no content": message(content=None),
    "a hot temperature": message() | {"temperature": 2.1},
    "a temperature in words": message() | {"temperature": SECRET},
    "a number in quotes": message() | {"temperature": "0.5"},
    "a limit of nothing": message() | {"max_tokens": 0},
    "a limit with a fraction": message() | {"max_tokens": 1.5},
    "a limit that is true": message() | {"max_tokens": True},
    "an endless limit": message() | {"max_tokens": 10**12},
    "a model that is a list": message() | {"model": [SECRET]},
    "an empty model": message() | {"model": ""},
    "a model of 1000 letters": message() | {"model": "x" * 1000},
    "2049 messages": {"messages": message()["messages"] * 2049},
    "257 parts": message(content=[{"type": "text", "text": "a"}] * 257),
}
WRONG_FOR_OPENAI: dict[str, dict[str, Any]] = {
    "17 answers": message() | {"n": 17},
    "a stream in words": message() | {"stream": "yes"},
    "21 others": message() | {"logprobs": True, "top_logprobs": 21},
    "others without logprobs": message() | {"top_logprobs": 2},
    "17 stops": message() | {"stop": ["a"] * 17},
    "an empty stop": message() | {"stop": [""]},
    "a bias for a word": message() | {"logit_bias": {SECRET: 1}},
    "a heavy bias": message() | {"logit_bias": {"1": 101}},
    "a seed of 70 bits": message() | {"seed": 2**70},
    "an unknown format": message() | {"response_format": {"type": SECRET}},
    "129 tools": message() | {"tools": [{"type": "function", "function": {"name": "f"}}] * 129},
    "options without a stream": message() | {"stream_options": {"include_usage": True}},
    "audio": message() | {"modalities": ["audio"]},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat", "/chat/stream"])
def test_what_fits_no_schema_is_refused(
    live_server: LiveServer, path: str, body: dict[str, Any]
) -> None:
    given = body if is_native(path) else {"model": "galley/chat"} | body

    assert_refused(live_server.post(path, **given), path)


@pytest.mark.parametrize("body", WRONG_FOR_OPENAI.values(), ids=WRONG_FOR_OPENAI)
def test_what_fits_no_schema_of_openais_is_refused(
    live_server: LiveServer, body: dict[str, Any]
) -> None:
    answer = live_server.post("/v1/chat/completions", **{"model": "galley/chat"} | body)

    assert_refused(answer, "/v1/chat/completions")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", message()),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/chat", message()),
        ("/chat/stream", message()),
        ("/v2/classify", {"images": [{"image": "AA=="}]}),
    ],
)
def test_a_model_that_is_not_there_or_does_something_else_is_refused(
    live_server: LiveServer, path: str, body: dict[str, Any]
) -> None:
    other = "galley/embeddings" if path != "/v1/embeddings" else "galley/chat"

    unknown = live_server.post(path, **body, model="no-such-model")
    wrong = live_server.post(path, **body, model=other)

    assert unknown.status_code == 404
    assert_refused(wrong, path)
    assert wrong.status_code == 400


def test_a_name_that_the_client_made_up_is_not_repeated_at_length(live_server: LiveServer) -> None:
    name = SECRET[:1] * 100_000

    openais = live_server.post("/v1/chat/completions", **message(), **{name: 1}, model="m")
    native = live_server.post("/chat", **message(), **{name: 1})

    assert_refused(openais, "/v1/chat/completions")
    assert_refused(native, "/chat")


def big(kind: bytes, count: int) -> bytes:
    return b'{"messages": [' + kind * count + b'{"role": "user", "content": "hi"}]}'


def heavy() -> Iterator[tuple[str, bytes]]:
    """Bodies of up to 10 MB, made as they are asked for."""
    yield "a million numbers", big(b"1,", 4_000_000)
    yield "a million lists", big(b"[],", 2_500_000)
    yield "a million objects", big(b"{},", 2_500_000)
    yield "a million names", b"{" + b",".join(b'"%d":1' % n for n in range(600_000)) + b"}"
    names = b",".join(b'"%d":1' % n for n in range(20_000))
    yield "a name given twice at the end", b"{" + names + b',"19999":1}'
    yield "faults in every message", big(b"{},", 2_000)
    unknown = b"{" + b",".join(b'"%d":1' % n for n in range(100)) + b"},"
    yield "many unknown names", big(unknown, 900)
    text = b'{"messages": [{"role": "user", "content": "%b"}]}'
    yield "a text of 9 MB", text % (b"a" * 9_000_000)
    yield "9 MB of escapes", text % (b"\\u00e9" * 1_500_000)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat"])
def test_heavy_input_does_not_hold_up_others(live_server: LiveServer, path: str) -> None:
    with pinging(live_server) as pulse:
        for name, body in heavy():
            began = time.monotonic()
            answer = live_server.client.post(path, content=body)

            assert time.monotonic() - began < SLOWEST_S, name
            assert_refused(answer, path)

    assert pulse.beats
    assert pulse.longest_s < LONGEST_SILENCE_S


FORM = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
FIELD = b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n'


def heavy_pictures() -> Iterator[tuple[str, bytes, str]]:
    """Bodies of up to 60 MB and their types, made as they are asked for."""
    form = "multipart/form-data; boundary=x"
    yield "ten million objects", b'{"images": [' + b"{}," * 10_000_000 + b"{}]}", "application/json"
    yield "40 MB of base64", b'{"image": "' + b"A" * 40_000_000 + b'"}', "application/json"
    yield "a form of line breaks", FORM + b"\r\n-" * 10_000_000, form
    yield "half a million fields", FIELD * 500_000, form
    punycode = FIELD.replace(b"1", b"-" + b"a" * 1_000_000) + b"--x--\r\n"
    yield "a field in Punycode", punycode, f"{form}; charset=punycode"


def test_heavy_pictures_do_not_hold_up_others(live_server: LiveServer) -> None:
    with pinging(live_server) as pulse:
        for name, body, kind in heavy_pictures():
            headers = {"content-type": kind}
            answer = live_server.client.post("/v2/classify", content=body, headers=headers)

            refused = answer.status_code in {400, 422}
            assert refused or answer.json()["results"][0]["error"], name
            assert len(answer.content) < 4_000

    assert pulse.beats
    assert pulse.longest_s < LONGEST_SILENCE_S


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "limit"), [("/v1/completions", 10), ("/v2/classify", 64)])
def test_a_body_over_the_limit_is_a_413(
    live_server: LiveServer, path: str, limit: int, chunked: bool
) -> None:
    piece, sent = b" " * 1_000_000, 0

    def pieces() -> Generator[bytes]:
        nonlocal sent
        for _ in range(limit + 10):
            sent += len(piece)
            yield piece

    body = pieces() if chunked else piece * limit + b" "
    refused = live_server.client.post(path, content=body)

    assert refused.status_code == 413
    assert refused.headers["connection"] == "close"
    assert f"{limit}000000 bytes" in refused.text
    assert live_server.row(refused)["error_code"] == "request_too_large"


@dataclass
class Pulse:
    """How a client fared that asked for next to nothing all the while."""

    beats: int = 0
    longest_s: float = 0.0


@contextmanager
def pinging(server: LiveServer) -> Generator[Pulse]:
    pulse, over = Pulse(), threading.Event()

    def ping() -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            while not over.wait(0.01):
                began = time.monotonic()
                assert client.get("/health/live").status_code == 200
                pulse.beats += 1
                pulse.longest_s = max(pulse.longest_s, time.monotonic() - began)

    pinger = threading.Thread(target=ping)
    pinger.start()
    try:
        yield pulse
    finally:
        over.set()
        pinger.join()


def test_the_server_is_well_after_all_this(live_server: LiveServer) -> None:
    for path, body in ((p, b) for p in (*OPENAI, *NATIVE) for b in MALFORMED.values()):
        live_server.client.post(path, content=body)

    answer = live_server.post("/chat", **message(), max_tokens=2)

    assert answer.status_code == 200
    assert live_server.client.get("/health/ready").status_code == 200
    assert json.loads(answer.text)["response"]
