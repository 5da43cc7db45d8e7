"""A model's server on loopback that answers well, or as it is told to (`upstream_faults`).

It speaks OpenAI's chat completions, completions and embeddings, reranking, and Anthropic's
messages.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 %d Whatever\r\n"
STREAM = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = ["Hey", " you", " there", ",", " friend", "!"]
TEXT = "".join(WORDS)
PROMPT_TOKENS, COMPLETION_TOKENS = 9, 6


@dataclass
class Call:
    """One request, and how to answer it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def anthropic(self) -> bool:
        """Whether it is said in Anthropic's words."""
        return self.path.endswith("/messages")

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0)  # over TLS, nobody tells otherwise that the client is gone

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a stream."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def begin(self) -> None:
        """Send the head of a stream."""
        await self.send(HEAD % 200 + STREAM)

    async def whole(
        self, status: int, body: Any, *, type_: str = "application/json", **more: str
    ) -> None:
        """Send a whole answer, with underscores for the dashes in the names of headers."""
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        head = {"content-type": type_, "content-length": str(len(content)), **more}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
        await self.send(HEAD % status + lines.encode() + b"\r\n" + content)

    async def events(self, *data: str, end: bool = True) -> None:
        """Send events one by one and, with `end`, the end of the stream."""
        for item in data:
            await self.chunk(as_event(item))
        if end:
            await self.send(b"0\r\n\r\n")

    async def hung_up(self) -> None:
        """Wait until the client closes the connection."""
        while await self.reader.read(65_536):
            pass

    def good(self) -> list[str]:
        """The events of a good answer."""
        return _messages() if self.anthropic else _completion(self.path)

    def piece(self, text: str) -> str:
        """The event that adds `text` to an answer."""
        return _text_delta(text) if self.anthropic else _chunk({"content": text})


Behaviour = Callable[[Call], Awaitable[None]]


@dataclass
class Upstream:
    """The server: `behaviour` for all, `behaviours` for single models; it may change any time."""

    behaviour: Behaviour
    behaviours: dict[str, Behaviour] = field(default_factory=dict[str, Behaviour])
    calls: list[Call] = field(default_factory=list[Call])
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    """How many were ever made."""
    open_connections: int = 0
    _server: asyncio.Server | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def close_port(self) -> None:
        """Refuse connections from now on, and cut those there are."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)

    def open_port(self) -> None:
        """Take connections, again on the same port."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(5)

    def soon(self, change: Callable[[], object]) -> None:
        """Have something done on its thread."""
        self._loop.call_soon_threadsafe(change)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        counted = False
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    call = await _read_call(reader, writer)
                    self.connections += not counted
                    counted = True
                    self.calls.append(call)
                    await self.behaviours.get(call.body.get("model", ""), self.behaviour)(call)
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.transport.abort()


@contextmanager
def misbehaving(
    behaviour: Behaviour | None = None, *, tls: ssl.SSLContext | None = None
) -> Generator[Upstream]:
    """Run the server, in a thread of its own."""
    server = Upstream(behaviour or well, tls=tls)
    thread = threading.Thread(target=server._loop.run_forever, name="upstream")
    thread.start()
    try:
        server.open_port()
        yield server
    finally:
        server.close_port()
        server._loop.call_soon_threadsafe(server._loop.stop)
        thread.join()
        server._loop.close()


async def _read_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
    head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Call(head.split()[1], headers, json.loads(body or b"{}"), reader, writer)


def as_event(data: str) -> bytes:
    """Write one event."""
    return f"data: {data}\n\n".encode()


def _chunk(delta: dict[str, Any], reason: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def _usage() -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}


def _completion(path: str) -> list[str]:
    usage = json.dumps({"choices": [], "usage": _usage()})
    if not path.endswith("/chat/completions"):
        said = [json.dumps({"choices": [{"index": 0, "text": word}]}) for word in WORDS]
        ended = json.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        return [*said, ended, usage, "[DONE]"]
    said = [_chunk({"content": word}) for word in WORDS]
    return [_chunk({"role": "assistant"}), *said, _chunk({}, "stop"), usage, "[DONE]"]


def _text_delta(text: str) -> str:
    delta = {"type": "text_delta", "text": text}
    return json.dumps({"type": "content_block_delta", "index": 0, "delta": delta})


def _messages() -> list[str]:
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        json.dumps({"type": "message_start", "message": {"usage": usage}}),
        json.dumps({"type": "content_block_start", "index": 0, "content_block": block}),
        json.dumps({"type": "ping"}),
        *map(_text_delta, WORDS),
        json.dumps({"type": "content_block_stop", "index": 0}),
        json.dumps(
            {"type": "message_delta", "delta": ended, "usage": {"output_tokens": COMPLETION_TOKENS}}
        ),
        json.dumps({"type": "message_stop"}),
    ]


def in_two_parts(server: Upstream) -> Callable[[], None]:
    """Let its answers stop before their last event, until what is returned is called."""
    go_on = asyncio.Event()

    async def behave(call: Call) -> None:
        *first, last = call.good()
        await call.begin()
        await call.events(*first, end=False)
        await go_on.wait()
        await call.events(last)

    server.behaviour = behave
    return lambda: server.soon(go_on.set)


async def well(call: Call) -> None:
    """Answer as the documentation says."""
    if call.path.endswith("/count_tokens"):
        await call.whole(200, {"input_tokens": PROMPT_TOKENS})
    elif call.path.endswith("/embeddings"):
        given = call.body["input"]
        data = [{"index": i, "embedding": [3.0, 4.0 + i]} for i in range(len(given))]
        await call.whole(200, {"data": data, "usage": {"prompt_tokens": PROMPT_TOKENS}})
    elif call.path.endswith("/rerank"):
        places = range(len(call.body["documents"]))
        results = [{"index": place, "relevance_score": place - 1.5} for place in places]
        usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
        await call.whole(200, {"model": "theirs", "results": results, "usage": usage})
    else:
        await call.begin()
        await call.events(*call.good())
