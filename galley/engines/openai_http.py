"""Any server that speaks OpenAI's API: one pooled client, always streaming.

Closing a stream closes its connection, which is how the other side learns to stop.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog

from galley.core.errors import BadRequestError, EngineError, OverloadedError
from galley.engines.bounds import likely_prompt_tokens, most_prompt_tokens
from galley.engines.lookout import CONNECT_S, Lookout
from galley.engines.openai_events import deltas
from galley.schemas.chat import ChatRequest, Message, NamedTool
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, Usage

log = structlog.get_logger(__name__)

_DONE: dict[str, Any] = {}  # what `[DONE]` is read as
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error"}  # OpenAI's word, llama.cpp's
_SAMPLING = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias",
)  # fmt: skip


class OpenAIHttpEngine:
    """A chat engine on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as a bearer token.
        slots: how many requests to send at the same time.
        socket: of a server on this machine, in place of the host in `url`.
    """

    def __init__(
        self, url: str, model: str, *, api_key: str | None, slots: int, socket: Path | None = None
    ) -> None:
        self.slots = slots
        self.hardware = "another server"
        self._lookout = None if socket else Lookout(url)  # whose child it is watches over it
        self._url = url.rstrip("/")
        self._model = model
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(
            connector=(
                aiohttp.UnixConnector(str(socket), limit=0)
                if socket
                else aiohttp.TCPConnector(limit=0)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers | {"content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )

    @property
    def problem(self) -> str | None:
        return self._lookout.problem if self._lookout else None

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        if self._lookout:
            await self._lookout.look()

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        return sum(most_prompt_tokens(request))  # the other side knows its own limits

    async def count(self, request: ChatRequest) -> int:
        body = chat_body(request, 0) | {"model": self._model}
        with suppress(EngineError, ValueError, KeyError, TypeError):
            # llama.cpp's server counts; there is no common way to ask the others.
            return int((await self.ask("/chat/completions/input_tokens", body))["input_tokens"])
        raise BadRequestError(
            "This model is on another server, which does not count tokens.",
            code="counting_unsupported",
        )

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[Delta]:
        chat = isinstance(request, ChatRequest)
        body = chat_body(request, choice) if chat else completion_body(request, choice)
        body["model"] = self._model
        path = "/chat/completions" if chat else "/completions"
        counted = False
        async with aclosing(self.answer(path, body, choice)) as answer:
            async for delta in answer:
                if delta.tokens and not (counted or delta.usage):
                    # The count comes last: who hangs up before has had the prompt read as well.
                    delta.usage = Usage(prompt_tokens=likely_prompt_tokens(request, choice))
                counted = counted or delta.usage is not None
                yield delta

    async def answer(self, path: str, body: dict[str, Any], choice: int) -> AsyncGenerator[Delta]:
        """Send `body` and yield the pieces of answer `choice`.

        Raises:
            EngineError: an event is not what the API says that it is.
            OverloadedError: the stream ended before the answer did; else as `events`.
        """
        finished = False
        async with aclosing(self.events(path, body)) as events:
            async for event in events:
                finished = finished or event is _DONE
                for delta in _read(event, choice):
                    finished = finished or delta.finish_reason is not None
                    yield delta
        if not finished:
            raise _broken_off()

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Send `body` and yield the JSON of each server-sent event.

        Raises:
            BadRequestError: the other side answered 400.
            OverloadedError: nothing answers there, or it broke off.
            EngineError: it answered with anything else but 200.
        """
        try:
            response = await self._send(path, body)
            try:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async for event in _events(response.content):
                    if failure := event.get("error"):
                        raise _failure(str(failure))
                    yield event
            finally:
                response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise self._silence(error) from error

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Post `body` (or get, without one) and return the answer's JSON.

        Raises:
            BadRequestError, EngineError, OverloadedError: as `events`.
        """
        try:
            response = await self._send(path, body)
            answer = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise OverloadedError(
                "The model's server is not there. Try again.",
                code="engine_unavailable",
                retry_after=1,
            ) from error
        if response.status != 200:
            raise _refusal(response.status, answer)
        return orjson.loads(answer)

    async def _send(self, path: str, body: dict[str, Any] | None) -> aiohttp.ClientResponse:
        if self._session.closed:
            raise _broken_off()
        method, data = ("GET", None) if body is None else ("POST", orjson.dumps(body))
        url = self._url + path
        try:
            return await self._session.request(method, url, data=data, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if self._session.closed:  # while we asked: whoever was there is gone for good
                raise
            # A connection that idled may be dead on reuse; nothing was answered on it.
            return await self._session.request(method, url, data=data, allow_redirects=False)

    def _silence(self, error: aiohttp.ClientError | OSError) -> OverloadedError:
        unreached = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
        if self._lookout is None or not isinstance(error, unreached):
            return _broken_off()
        self._lookout.missed()
        return OverloadedError(
            f"Nothing answers at {self._lookout.place}.", code="engine_unavailable", retry_after=1
        )

    async def aclose(self) -> None:
        if self._lookout:
            await self._lookout.aclose()
        await self._session.close()


def chat_body(request: ChatRequest, choice: int) -> dict[str, Any]:
    """Write a chat request for one answer, streamed, with its usage."""
    body = _body(request, choice)
    body["messages"] = [_message_body(message) for message in request.messages]
    if request.top_k is not None:
        body["top_k"] = request.top_k
    if request.logprobs:
        body["logprobs"], body["top_logprobs"] = True, request.top_logprobs or 0
    if request.response_format is not None:
        body["response_format"] = request.response_format.model_dump(
            by_alias=True, exclude_none=True
        )
    if request.functions:
        body["tools"] = [tool.model_dump(exclude_none=True) for tool in request.functions]
        if isinstance(request.tool_choice, NamedTool):
            body["tool_choice"] = request.tool_choice.model_dump()
        elif request.tool_choice is not None:
            body["tool_choice"] = request.tool_choice
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def _message_body(message: Message) -> dict[str, Any]:
    body = message.model_dump(exclude_none=True)
    if not (message.content or message.tool_calls):
        body["content"] = message.text
    return body


def completion_body(request: CompletionRequest, choice: int) -> dict[str, Any]:
    """Write a text completion for one answer, streamed, with its usage."""
    body = _body(request, choice)
    body["prompt"] = request.prompts[choice // (request.n or 1)]
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


def _body(request: ChatRequest | CompletionRequest, choice: int) -> dict[str, Any]:
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    for name in _SAMPLING:
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.limit is not None:  # by the name that was used: each is unknown to some servers
        newer = isinstance(request, ChatRequest) and request.max_completion_tokens
        body["max_completion_tokens" if newer else "max_tokens"] = request.limit
    if request.stops:
        body["stop"] = request.stops
    if request.seed is not None:
        # 32 bits, all ones meaning "random" to llama.cpp; each choice gets its own.
        body["seed"] = (request.seed + choice) % (2**32 - 1)
    return body


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any]]:
    """Read the data lines of a stream. Source: WHATWG HTML, section 9.2."""
    rest = b""
    async for part in content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                yield _DONE if data == b"[DONE]" else _read_event(data)


def _read_event(data: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _failure("it sent no JSON") from error
    if not isinstance(event, dict):
        raise _failure("it sent no JSON object")
    return event


def _read(event: dict[str, Any], choice: int) -> list[Delta]:
    try:
        return deltas(event, choice)
    except ValueError as error:
        raise _failure(f"it sent an event that is none: {error}") from error


def _broken_off() -> OverloadedError:
    return OverloadedError(
        "The model's server broke off the connection. Try again.",
        code="engine_unavailable",
        retry_after=1,
    )


def _failure(said: str) -> EngineError:
    """Keep what another server says of its own troubles in the log: it may name its secrets."""
    log.error("engine_failed", said=said[:1000])
    return EngineError("The model's server failed.", code="engine_error")


def _refusal(status: int, answer: bytes) -> BadRequestError | EngineError | OverloadedError:
    if status in (400, 413, 422):
        return _refused(answer)
    if status in (429, 503):
        return OverloadedError(
            "The model's server is busy. Try again.", code="engine_unavailable", retry_after=1
        )
    return _failure(f"{status}: {answer.decode(errors='replace')}")


def _refused(answer: bytes) -> BadRequestError:
    """Pass on what a server says of a request that it does not take."""
    try:
        error = orjson.loads(answer)["error"]
        message, kinds = str(error["message"]), {str(error.get("type")), str(error.get("code"))}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message, kinds = "The model's server does not take this request.", set[str]()
    return BadRequestError(
        message, code="context_length_exceeded" if kinds & _TOO_LONG else "refused_by_model"
    )
