"""Any server that speaks Anthropic's Messages API, always streaming."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from galley.core.errors import BadRequestError
from galley.engines.anthropic_bodies import messages_body, prompt_body, refuse_unknown
from galley.engines.anthropic_events import MessageReader
from galley.engines.bounds import likely_prompt_tokens, most_prompt_tokens
from galley.engines.http_answers import read_pieces
from galley.engines.http_errors import broken_off
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.http_upstream import Upstream
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta

VERSION = "2023-06-01"


class AnthropicHttpEngine:
    """A chat engine on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as `x-api-key`.
        slots: how many requests to send at the same time.
        headers: sent with every request.
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
    ) -> None:
        self.slots = slots
        self.hardware = "another server"
        self._model = model
        self._upstream = Upstream(
            url,
            model,
            key={"x-api-key": api_key} if api_key else {},
            headers={"anthropic-version": VERSION, **(headers or {})},
            patience=patience,
        )

    @property
    def problem(self) -> str | None:
        return self._upstream.problem

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        await self._upstream.look()

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        refuse_unknown(_conversation(request))
        return sum(most_prompt_tokens(request))  # the other side knows its own limits

    async def count(self, request: ChatRequest) -> int:
        refuse_unknown(request)
        body = prompt_body(request) | {"model": self._model}
        counted = await self._upstream.ask("/messages/count_tokens", body)
        if not isinstance(found := counted.get("input_tokens"), int) or found < 0:
            raise self._upstream.faults.failure("it counted no tokens")
        return found

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        conversation = _conversation(request)
        body = messages_body(conversation) | {"model": self._model}
        reader = MessageReader(choice, likely_prompt_tokens(conversation, choice))
        exchange = self._upstream.exchange()

        def read(data: bytes) -> Sequence[Delta]:
            event = self._upstream.read_object(data)
            if event.get("type") == "message_stop":
                exchange.ended = True
                return ()
            delta = self._read(reader, event)
            return () if delta is None else (delta,)

        async with aclosing(self._upstream.stream("/messages", body, exchange)) as batches:
            async for events in batches:
                pieces, error = read_pieces(events, read, exchange)
                if pieces:
                    yield pieces
                if error is not None:
                    raise error
                if exchange.ended:
                    break
        if not exchange.finished:
            failure = self._upstream.faults.failure
            raise failure("it said nothing") if exchange.ended else broken_off()

    async def aclose(self) -> None:
        await self._upstream.aclose()

    def _read(self, reader: MessageReader, event: dict[str, object]) -> Delta | None:
        if event.get("type") == "error":
            raise self._upstream.faults.event(event.get("error"))
        try:
            return reader.read(event)
        except ValueError as error:
            raise self._upstream.faults.failure(
                f"it sent an event that is none: {error}"
            ) from error


def _conversation(request: ChatRequest | CompletionRequest) -> ChatRequest:
    if isinstance(request, ChatRequest):
        return request
    raise BadRequestError(
        "This model's server takes conversations only: use chat completions.",
        code="wrong_model_kind",
        param="model",
    )
