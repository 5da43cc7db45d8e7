"""Any server that speaks OpenAI's API."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from galley.core.errors import BadRequestError, EngineError
from galley.engines.bounds import likely_prompt_tokens, likely_tokens, most_prompt_tokens
from galley.engines.http_answers import read_pieces
from galley.engines.http_errors import broken_off
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.http_upstream import Upstream
from galley.engines.openai_events import CallNumbers, deltas
from galley.schemas.chat import ChatRequest, Message, NamedTool
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, Usage

_SAMPLING = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias",
)  # fmt: skip

_MESSAGES = TypeAdapter(list[Message])
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAIHttpEngine:
    """A chat engine on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as a bearer token.
        slots: how many requests to send at the same time.
        headers: sent with every request.
        always_stream: ask for streams even where the caller wants a whole answer, so that a hang-up
            stops the work at once and is billed by what was made.
        pass_fields: inert fields of a chat request that are sent on.
        socket: of a server on this machine, in place of the host in `url`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        slots: int,
        headers: Mapping[str, str] | None = None,
        patience: Patience = ENDLESS,
        always_stream: bool = True,
        pass_fields: Sequence[str] = (),
        socket: Path | None = None,
    ) -> None:
        self.slots = slots
        self._always_stream = always_stream
        self._pass_fields = pass_fields
        self.hardware = "another server"
        self._model = model
        self._upstream = Upstream(
            url,
            model,
            key=bearer(api_key),
            headers=headers or {},
            patience=patience,
            socket=socket,
        )

    @property
    def problem(self) -> str | None:
        return self._upstream.problem

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        await self._upstream.look()

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
    ) -> AsyncGenerator[list[Delta]]:
        chat = isinstance(request, ChatRequest)
        body = chat_body(request, choice) if chat else completion_body(request, choice)
        if self._pass_fields:
            body |= request.passed(self._pass_fields)
        body["model"] = self._model
        path = "/chat/completions" if chat else "/completions"
        prompt = Usage(likely_prompt_tokens(request, choice))
        if not (self._always_stream or request.stream):
            # Nobody counts it for those who hang up before the answer is there.
            yield [Delta(index=choice, usage=prompt)]
            yield await self._whole(path, body, prompt, choice)
            return
        counted = False
        async with aclosing(self.answer(path, body, choice)) as answer:
            async for pieces in answer:
                if not counted and (first := _first_counted(pieces)) is not None:
                    # The count comes last, if at all: who hangs up before has had the prompt
                    # read as well.
                    first.usage = first.usage or prompt
                    counted = True
                yield pieces

    async def answer(
        self, path: str, body: dict[str, Any], choice: int
    ) -> AsyncGenerator[list[Delta]]:
        """Send `body`, streamed and with its usage, and yield the pieces of answer `choice`.

        Raises:
            BadRequestError: the other side does not take this request.
            OverloadedError: nothing answers there, it is busy, or the answer broke off.
            EngineError: it failed, or an event is not what the API says that it is.
            EngineTimeoutError: the first token or the next event did not come in time.
        """
        exchange, calls = self._upstream.exchange(), CallNumbers()

        def read(data: bytes) -> Sequence[Delta]:
            if data == b"[DONE]":
                exchange.ended = True
                return ()
            return self._read(self._upstream.read_object(data), choice, calls)

        async with aclosing(self._upstream.stream(path, body | _STREAMED, exchange)) as batches:
            async for events in batches:
                pieces, error = read_pieces(events, read, exchange)
                if pieces:
                    yield pieces
                if error is not None:
                    raise error
                if exchange.ended:
                    break
        if exchange.finished or (exchange.ended and exchange.begun):
            return
        raise self._upstream.faults.failure("it said nothing") if exchange.ended else broken_off()

    async def _whole(
        self, path: str, body: dict[str, Any], prompt: Usage, choice: int
    ) -> list[Delta]:
        found = self._read(await self._upstream.whole(path, body), choice, CallNumbers())
        if not (found and found[-1].finish_reason):
            raise self._upstream.faults.failure("it said nothing")
        if found[-1].usage is None:
            made = likely_tokens("".join(delta.text + delta.reasoning for delta in found))
            found[-1].usage = Usage(prompt.prompt_tokens, made)
        return found

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Post `body` (or get, without one) and return the answer's JSON.

        Raises:
            BadRequestError, EngineError, EngineTimeoutError, OverloadedError: as `answer`.
        """
        return await self._upstream.ask(path, body)

    async def aclose(self) -> None:
        await self._upstream.aclose()

    def _read(self, event: dict[str, Any], choice: int, calls: CallNumbers) -> list[Delta]:
        if error := event.get("error"):
            raise self._upstream.faults.event(error)
        try:
            return deltas(event, choice, calls)
        except ValueError as error:
            raise self._upstream.faults.failure(
                f"it sent an event that is none: {error}"
            ) from error


def _first_counted(pieces: list[Delta]) -> Delta | None:
    """Return the first piece that has a count, or for which the prompt was read."""
    for delta in pieces:
        if delta.usage or delta.tokens or delta.finish_reason:
            return delta
    return None


def bearer(api_key: str | None) -> dict[str, str]:
    """Write the header that opens a server of OpenAI's kind."""
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def chat_body(request: ChatRequest, choice: int) -> dict[str, Any]:
    """Write a chat request for one answer."""
    body = _body(request, choice)
    body["messages"] = _messages_body(request.messages)
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


def _messages_body(messages: list[Message]) -> list[dict[str, Any]]:
    bodies = _MESSAGES.dump_python(messages, exclude_none=True)
    for body, message in zip(bodies, messages, strict=True):
        if not (message.content or message.tool_calls):
            body["content"] = message.text
    return bodies


def completion_body(request: CompletionRequest, choice: int) -> dict[str, Any]:
    """Write a text completion for one answer."""
    body = _body(request, choice)
    body["prompt"] = request.prompts[choice // (request.n or 1)]
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


def _body(request: ChatRequest | CompletionRequest, choice: int) -> dict[str, Any]:
    body: dict[str, Any] = {}
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
