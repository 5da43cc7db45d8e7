"""Answers, made by the models that write text."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing

from galley.core.catalogue import ModelSettings
from galley.engines.base import ChatEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Answer, Delta, ToolCall
from galley.services.charge import Charge
from galley.services.metering import Meter
from galley.services.models import Loaded, Models
from galley.services.slots import SlotQueue

TextRequest = ChatRequest | CompletionRequest


class ChatService:
    """The one way from a conversation or a prompt to its answers."""

    def __init__(self, models: Models, meter: Meter) -> None:
        self._models = models
        self._meter = meter
        self._queues: dict[str, SlotQueue] = {}

    async def stream(
        self, charge: Charge, request: TextRequest, *, ignored: Sequence[str] = ()
    ) -> AsyncGenerator[Delta]:
        """Yield every answer as it is made; the pieces of `n` answers come mixed.

        Args:
            ignored: fields without meaning here that a translation has left out of `request`.
        Raises:
            NotFoundError: no such model.
            BadRequestError: the prompt does not fit, or the model cannot do this.
            RateLimitError: the caller is over a limit.
            OverloadedError: the model is loading, restarting, or its queue is full.
            EngineError: the model failed.
        """
        charge.record.stream = bool(request.stream)
        model = self._chosen(charge, request, ignored)
        charge.per_prompt = request.n or 1
        prompt_tokens = await model.engine.check(request)
        longest = min(request.limit or model.settings.context, model.settings.context)
        await self._meter.admit(
            charge,
            model.name,
            prompt_tokens=prompt_tokens,
            completion_tokens=longest * request.choices,
        )
        request = _with_defaults(request, model.settings)
        queue = self.queue(model)
        with queue.room(request.choices):
            each = [
                _answer(model.engine, queue, request, choice, charge.caller.user_id)
                for choice in range(request.choices)
            ]
            answers = each[0] if len(each) == 1 else _mixed(each)
            async with aclosing(answers):
                async for delta in answers:
                    charge.add(delta)
                    yield delta

    async def count(
        self, charge: Charge, request: ChatRequest, *, ignored: Sequence[str] = ()
    ) -> int:
        """Count the tokens of a prompt; it is a request among others, and takes no tokens.

        Raises:
            BadRequestError: the prompt does not fit, or the model cannot count.
            NotFoundError, RateLimitError, OverloadedError: as `stream`.
        """
        model = self._chosen(charge, request, ignored)
        await self._meter.admit(charge, model.name)
        return await model.engine.count(request)

    def _chosen(
        self, charge: Charge, request: TextRequest, ignored: Sequence[str]
    ) -> Loaded[ChatEngine]:
        record = charge.record
        record.model = request.model
        record.ignored_fields = ",".join([*request.ignored, *ignored]) or None
        model = self._models.chat(request.model, charge.caller)
        record.served_model = model.name
        return model

    def queue(self, model: Loaded[ChatEngine]) -> SlotQueue:
        """Return the queue in front of `model`."""
        found = self._queues.get(model.name)
        if found is None:
            found = SlotQueue(model.engine.slots, model.settings.queue)
            self._queues[model.name] = found
        return found


def _with_defaults(request: TextRequest, settings: ModelSettings) -> TextRequest:
    if request.temperature is not None or settings.temperature is None:
        return request
    return request.model_copy(update={"temperature": settings.temperature})


async def gather(deltas: AsyncIterable[Delta], choices: int) -> list[Answer]:
    """Join the pieces of `choices` answers."""
    answers = [Answer() for _ in range(choices)]
    texts: list[list[str]] = [[] for _ in range(choices)]
    async for delta in deltas:
        answer = answers[delta.index]
        texts[delta.index].append(delta.text)
        answer.reasoning += delta.reasoning
        if delta.logprobs:
            answer.logprobs = (answer.logprobs or []) + delta.logprobs
        for call in delta.tool_calls:
            _join(answer.tool_calls, call)
        answer.finish_reason = delta.finish_reason or answer.finish_reason
        answer.stop_sequence = delta.stop_sequence or answer.stop_sequence
    for answer, pieces in zip(answers, texts, strict=True):
        answer.text = "".join(pieces)
    return answers


def _join(calls: list[ToolCall], piece: ToolCall) -> None:
    for call in reversed(calls):  # some servers number every call 0
        if call.index == piece.index and piece.id in (None, call.id):
            call.arguments += piece.arguments
            return
    calls.append(ToolCall(piece.index, piece.id, piece.name, piece.arguments))


async def _answer(
    engine: ChatEngine, queue: SlotQueue, request: TextRequest, choice: int, salt: str
) -> AsyncGenerator[Delta]:
    async with queue.slot():
        deltas = engine.stream(request, choice=choice, cache_salt=salt)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta


async def _mixed(streams: list[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Yield from all `streams` as pieces come; the first failure ends them all."""
    pieces: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue(maxsize=64)

    async def pump(stream: AsyncGenerator[Delta]) -> None:
        try:
            async with aclosing(stream):
                async for delta in stream:
                    await pieces.put(delta)
            await pieces.put(None)
        except Exception as error:
            await pieces.put(error)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
    open_streams = len(pumps)
    try:
        while open_streams:
            piece = await pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                open_streams -= 1
            else:
                yield piece
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
