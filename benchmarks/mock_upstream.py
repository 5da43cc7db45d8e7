"""A model server that answers at once, so that what is measured is the gateway's own.

The prompt says how a stream comes: `chunks=200 delay_ms=10`.

python -m benchmarks.mock_upstream --port 9100
"""

import argparse
import asyncio
import json
import re
from typing import cast

import uvloop

MODEL = "mock"
TEXT = "It depends on what you mean by that, but most people would say that it does so too. " * 2
USAGE = {"prompt_tokens": 21, "completion_tokens": 40, "total_tokens": 61}
_COMMON = {"id": "chatcmpl-mock", "created": 1_700_000_000, "model": MODEL}


def _http(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return (head % len(body)).encode() + body


def _event(delta: dict[str, str] | None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    event = _COMMON | {"object": "chat.completion.chunk", "choices": choices} | more
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_MESSAGE = {"role": "assistant", "content": TEXT}
_CHOICE = {"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}
WHOLE = _http(
    json.dumps(
        _COMMON | {"object": "chat.completion", "choices": [_CHOICE], "usage": USAGE}
    ).encode()
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST, LAST = _event({"role": "assistant", "content": ""}), _event({}, "stop")
WORDS = [_event({"content": f" {word}"}) for word in TEXT.split()]
USED, DONE = _event(None, usage=USAGE), b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": *true')
_CHUNKS, _PAUSE = re.compile(rb"chunks=(\d+)"), re.compile(rb"delay_ms=([\d.]+)")


class Mock(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end + 2)
        total = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < total:
            return
        request, self._received = self._received[:total], self._received[total:]
        if _STREAM.search(request, end):
            self._task = asyncio.ensure_future(self._stream(request[end:]))
        else:
            self._out.write(WHOLE)

    async def _stream(self, body: bytes) -> None:
        chunks, pause = _CHUNKS.search(body), _PAUSE.search(body)
        pause_s = float(pause[1]) / 1000 if pause else 0
        self._out.write(HEAD + FIRST)
        for n in range(int(chunks[1]) if chunks else 200):
            await asyncio.sleep(pause_s)  # a segment for each chunk, as models send them
            self._out.write(WORDS[n % len(WORDS)])
        self._out.write(LAST + (USED if b"include_usage" in body else b"") + DONE)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Mock, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
