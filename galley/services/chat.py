"""Answers, made by the models that write text."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, cast

import orjson

from galley.core.caching import CacheSettings
from galley.core.catalogue import ModelSettings
from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
)
from galley.core.tracing import step
from galley.engines.base import ChatEngine
from galley.schemas.chat import ChatRequest
from galley.schemas.delta import Answer, Delta, ToolCall
from galley.services.caching import AnswerCache, Hit, Lookup
from galley.services.charge import Charge
from galley.services.dispatch import Dispatch, Turn
from galley.services.filtering import guard_of
from galley.services.grounding import GroundingService
from galley.services.metering import Meter
from galley.services.models import Loaded, Models, Replica
from galley.services.pictures import Pictures, PictureService, TextRequest
from galley.services.slots import SlotQueue

_NO_ROUTE = CacheSettings()


class ChatService:
    """The one way from a conversation or a prompt to its answers.

    Args:
        heavy: where long texts are filtered.
    """

    def __init__(
        self,
        models: Models,
        meter: Meter,
        dispatch: Dispatch,
        pictures: PictureService,
        cache: AnswerCache,
        grounding: GroundingService,
        heavy: Executor,
    ) -> None:
        self._grounding = grounding
        self._models = models
        self._cache = cache
        self._heavy = heavy
        self._pictures = pictures
        self._meter = meter
        self._dispatch = dispatch
        self._queues: dict[str, tuple[Sequence[Replica[ChatEngine]], SlotQueue]] = {}

    async def stream(
        self, charge: Charge, request: TextRequest, *, ignored: Sequence[str] = ()
    ) -> AsyncGenerator[list[Delta]]:
        """Let a request in, and return its answers as they are made.

        The pieces of `n` answers come mixed; what came at once comes together. While they are
        awaited, `EngineError`, `EngineTimeoutError` and `OverloadedError` may come.

        Args:
            ignored: fields without meaning here that a translation has left out of `request`.
        Raises:
            NotFoundError: no such model.
            BadRequestError: the prompt does not fit, or the model cannot do this.
            RateLimitError: the caller is over a limit.
            OverloadedError: the model is loading, restarting, or its queue is full.
            EngineError: no model of the route can tell whether it takes this.
        """
        charge.record.stream = bool(request.stream)
        models = self._chosen(charge, request, ignored)
        charge.per_prompt = request.n or 1
        if isinstance(request, ChatRequest) and request.galley is not None:
            await self._meter.check(charge)  # to search is work, and comes first
            request = await self._grounding.ground(charge, request, models[0])
        guard = guard_of(charge, self._heavy)
        if guard is not None:
            request = await guard.read(request)
        lookup = self._look(charge, models[0], request)
        if lookup is not None and (hit := await _found(lookup)) is not None:
            charge.record.cache = hit.kind
            await self._meter.admit(charge, models[0].name)
            charge.add(hit.deltas)
            answers = _replayed(hit.deltas)
            return answers if guard is None else guard.write(answers, request.choices)
        pictures = self._pictures.of(request)
        await pictures.measure()
        targets, prompt_tokens = await _able(models, pictures)
        await self._meter.admit(
            charge,
            *(target.name for target in targets),
            prompt_tokens=prompt_tokens,
            completion_tokens=max(_longest(target, request) for target in targets),
            images=pictures.most_described(targets),
        )
        answers = self._asked(charge, targets, pictures)
        answers = answers if lookup is None else _kept(answers, lookup, charge)
        return answers if guard is None else guard.write(answers, request.choices)

    async def _asked(
        self, charge: Charge, targets: Sequence[Loaded[ChatEngine]], pictures: Pictures
    ) -> AsyncGenerator[list[Delta]]:
        """Yield the answers of the first target that answers.

        What comes before the first piece that reaches the caller is held back. A stream begins
        with that one, and says whose answer it is: until then it may be another's.
        """
        async for turn in self._dispatch.course(targets, charge.attempts):
            early: dict[int, Delta] = {}
            with turn:
                async with aclosing(self._answers(charge, turn, pictures)) as answers:
                    async for pieces in answers:
                        charge.add(pieces)
                        if turn.begun:
                            yield pieces
                        elif any(map(_is_seen, pieces)):
                            turn.answered()
                            yield [*early.values(), *pieces]
                        else:
                            _hold(early, pieces)
                return

    def _look(
        self, charge: Charge, model: Loaded[ChatEngine], request: TextRequest
    ) -> Lookup | None:
        """Say where in the cache an answer may be; None when it is not asked."""
        route = charge.record.route
        settings = self._models.routes[route].cache if route else _NO_ROUTE
        asked = _with_defaults(request, model.settings)
        passed = asked.passed(model.settings.pass_fields)
        control = charge.cache_control
        return self._cache.look(charge.caller, model.name, asked, control, settings, passed)

    async def _answers(
        self, charge: Charge, turn: Turn[ChatEngine], pictures: Pictures
    ) -> AsyncGenerator[list[Delta]]:
        """Yield all answers of one model, mixed."""
        model, engine = turn.target, turn.replica.engine
        await self._meter.enter(charge, model.name)
        passed = pictures.request.passed(model.settings.pass_fields)
        charge.record.ignored_fields = (
            ",".join(n for n in charge.ignored if n not in passed) or None
        )
        queue = self.queue(model)
        with queue.room(pictures.request.choices, background=charge.background):
            readable = await pictures.readable_by(model, charge)
            request = _with_defaults(readable, model.settings)
            each = [
                _answer(charge, engine, queue, request, choice) for choice in range(request.choices)
            ]
            async with aclosing(each[0] if len(each) == 1 else _mixed(each)) as answers:
                async for pieces in answers:
                    yield pieces

    async def count(
        self, charge: Charge, request: ChatRequest, *, ignored: Sequence[str] = ()
    ) -> int:
        """Count the tokens of a prompt; it is a request among others, and takes no tokens.

        Raises:
            BadRequestError: the prompt does not fit, or the model cannot count.
            NotFoundError, RateLimitError, OverloadedError: as `stream`.
        """
        model = self._chosen(charge, request, ignored)[0]
        pictures = self._pictures.of(request)
        await pictures.measure()
        await self._meter.admit(charge, model.name, images=pictures.most_described([model]))
        readable = await pictures.readable_by(model, charge)
        return await model.engine.count(cast("ChatRequest", readable))

    def _chosen(
        self, charge: Charge, request: TextRequest, ignored: Sequence[str]
    ) -> list[Loaded[ChatEngine]]:
        record = charge.record
        record.model = request.model
        charge.ignored = [*request.ignored, *ignored]
        record.ignored_fields = ",".join(charge.ignored) or None
        plan = self._models.plan(request.model, charge.caller)
        record.route, record.arm = plan.route, plan.arm
        models = self._models.chat(plan)
        record.served_model = models[0].name
        for model in models:
            _check_passed(request.passed(model.settings.pass_fields))
        return models

    def queue(self, model: Loaded[ChatEngine]) -> SlotQueue:
        """Return the queue in front of `model`."""
        replicas, queue = self._queues.get(model.name, (None, None))
        if queue is None or replicas is not model.replicas:  # an admin may have changed the model
            slots = sum(replica.engine.slots for replica in model.replicas)
            wait_s = model.settings.queue_wait
            queue = SlotQueue(slots, model.settings.queue, longest_wait_s=wait_s)
            self._queues[model.name] = model.replicas, queue
        return queue


def _check_passed(fields: Mapping[str, Any]) -> None:
    """Refuse what cannot be written as it was read: a number of more than 64 bits."""
    for name, value in fields.items():
        try:
            orjson.dumps(value)
        except TypeError as error:
            raise BadRequestError(
                f"Invalid value for '{name}': {error}.", code="invalid_request", param=name
            ) from error


async def _able(
    models: Sequence[Loaded[ChatEngine]], pictures: Pictures
) -> tuple[list[Loaded[ChatEngine]], int]:
    """Leave out who cannot do this; also return the most tokens its prompts can have.

    Raises:
        BadRequestError: the first model cannot do it.
        OverloadedError, EngineError, EngineTimeoutError: nobody can tell now.
    """
    able: list[Loaded[ChatEngine]] = []
    most = 0
    problem: GalleyError | None = None
    for model in models:
        try:
            tokens = await model.engine.check(pictures.outlined_for(model))
        except BadRequestError:
            if model is models[0]:
                raise
        except (EngineError, EngineTimeoutError, OverloadedError) as error:  # it cannot tell now
            problem = problem or error
        else:
            able.append(model)
            most = max(most, tokens)
    if not able:
        assert problem is not None  # noqa: S101 - else the first has raised
        raise problem
    return able, most


def _longest(model: Loaded[ChatEngine], request: TextRequest) -> int:
    """The most tokens that all of its answers can have together."""
    context = model.settings.context
    return min(request.limit or context, context) * request.choices


def _is_seen(delta: Delta) -> bool:
    """Whether a piece reaches the caller; until one does, another model may answer."""
    return bool(delta.text or delta.reasoning or delta.tool_calls or delta.finish_reason)


def _hold(early: dict[int, Delta], pieces: Sequence[Delta]) -> None:
    """Keep the last piece of each choice, with what those before it told of usage."""
    for delta in pieces:
        before = early.get(delta.index)
        delta.usage = delta.usage or (before.usage if before else None)
        early[delta.index] = delta


async def _found(lookup: Lookup) -> Hit | None:
    with step("cache"):
        return await lookup.find()


async def _replayed(deltas: list[Delta]) -> AsyncGenerator[list[Delta]]:
    yield deltas


async def _kept(
    answers: AsyncGenerator[list[Delta]], lookup: Lookup, charge: Charge
) -> AsyncGenerator[list[Delta]]:
    """Yield `answers`, and keep them once they are whole."""
    async with aclosing(answers):
        async for pieces in answers:
            lookup.add(pieces)
            yield pieces
    await lookup.keep(charge.record.served_model or "")


def _with_defaults(request: TextRequest, settings: ModelSettings) -> TextRequest:
    if request.temperature is not None or settings.temperature is None:
        return request
    return request.model_copy(update={"temperature": settings.temperature})


async def gather(answer: AsyncGenerator[list[Delta]], choices: int) -> list[Answer]:
    """Join the pieces of `choices` answers, and close `answer`."""
    found = [Answer() for _ in range(choices)]
    texts: list[list[str]] = [[] for _ in range(choices)]
    async with aclosing(answer):
        async for pieces in answer:
            for delta in pieces:
                texts[delta.index].append(delta.text)
                _take(found[delta.index], delta)
    for one, said in zip(found, texts, strict=True):
        one.text = "".join(said)
    return found


def _take(answer: Answer, delta: Delta) -> None:
    """Add all of a piece but its text."""
    answer.reasoning += delta.reasoning
    if delta.logprobs:
        answer.logprobs = (answer.logprobs or []) + delta.logprobs
    for call in delta.tool_calls:
        _join(answer.tool_calls, call)
    answer.finish_reason = delta.finish_reason or answer.finish_reason
    answer.stop_sequence = delta.stop_sequence or answer.stop_sequence


def _join(calls: list[ToolCall], piece: ToolCall) -> None:
    for call in reversed(calls):  # some servers number every call 0
        if call.index == piece.index and piece.id in (None, call.id):
            call.arguments += piece.arguments
            return
    calls.append(ToolCall(piece.index, piece.id, piece.name, piece.arguments))


async def _answer(
    charge: Charge, engine: ChatEngine, queue: SlotQueue, request: TextRequest, choice: int
) -> AsyncGenerator[list[Delta]]:
    caller, background = charge.caller, charge.background
    slot = queue.slot(caller.user_id, caller.weight, background=background, on_wait=charge.wait)
    async with slot:
        charge.begin()
        answer = engine.stream(request, choice=choice, cache_salt=caller.user_id)
        with step("engine"):
            async with aclosing(answer):
                async for pieces in answer:
                    yield pieces


async def _mixed(
    streams: list[AsyncGenerator[list[Delta]]],
) -> AsyncGenerator[list[Delta]]:
    """Yield from all `streams` as pieces come; the first failure ends them all."""
    found: asyncio.Queue[list[Delta] | BaseException | None] = asyncio.Queue(maxsize=64)

    async def pump(stream: AsyncGenerator[list[Delta]]) -> None:
        try:
            async with aclosing(stream):
                async for pieces in stream:
                    await found.put(pieces)
            await found.put(None)
        except Exception as error:
            await found.put(error)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
    open_streams = len(pumps)
    try:
        while open_streams:
            pieces = await found.get()
            if isinstance(pieces, BaseException):
                raise pieces
            if pieces is None:
                open_streams -= 1
            else:
                yield pieces
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
