"""Holds what is asked and answered to the filter rules of the caller's tier.

Answers are looked at on their way out, wherever they come from: what the cache keeps is as it was
made, and each tier's own rules are laid on it. What was made is billed, whatever of it is let out.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace

from galley.core.errors import BadRequestError
from galley.core.filters import FilterRule, Side
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, FinishReason, ToolCall
from galley.services.charge import Charge
from galley.services.detectors import Detector, detectors_of
from galley.services.scanning import Scanner
from galley.services.texts import change_texts, texts_of

TextRequest = ChatRequest | CompletionRequest
Note = Callable[[FilterRule, Detector, int], None]

SHORT = 1024
"""So many characters are looked at at once, and more on a thread, piece by piece: a search keeps
everybody else waiting while it lasts."""


class Lane:
    """One text on its way through rules, in their order.

    Args:
        note: is told of what is found.
    """

    __slots__ = ("_note", "_scanners", "stopped_by")

    def __init__(self, rules: Iterable[FilterRule], note: Note) -> None:
        self._note = note
        self.stopped_by: FilterRule | None = None
        self._scanners = [
            (rule, detector, Scanner(detector, stops=rule.action == "refuse"))
            for rule in rules
            for detector in detectors_of(rule)
        ]

    def feed(self, text: str, *, last: bool = False) -> str:
        """Take the next piece, and return what can leave; with `last`, all that is held back."""
        said, place = "", 0
        while place + SHORT < len(text) and self.stopped_by is None:
            said += self._feed(text[place : place + SHORT], last=False)
            place += SHORT
        return said if self.stopped_by is not None else said + self._feed(text[place:], last=last)

    def _feed(self, text: str, *, last: bool) -> str:
        for rule, detector, scanner in self._scanners:
            known = scanner.count
            said = scanner.feed(text)
            if last and not scanner.stopped:
                said += scanner.flush()
            if scanner.count > known:
                self._note(rule, detector, scanner.count - known)
            if rule.action != "flag":
                text = said
            if scanner.stopped:  # what comes before it leaves, and nothing after it
                last, self.stopped_by = True, rule
        return text


class Guard:
    """What rules do with one request and its answers.

    Args:
        heavy: where long texts are looked at.
    """

    def __init__(self, charge: Charge, heavy: Executor) -> None:
        self._charge = charge
        self._heavy = heavy
        rules = charge.caller.filters
        self._input = [rule for rule in rules if rule.on != "output"]
        self._output = [rule for rule in rules if rule.on != "input"]
        self._changes = any(rule.action != "flag" for rule in self._output)

    async def read(self, request: TextRequest) -> TextRequest:
        """Return what the model may be told of a request.

        Raises:
            BadRequestError: a rule refuses it (`content_filtered`), or it asks for what would
                lead around the rules.
        """
        self._check(request)
        if not self._input:
            return request
        if sum(map(len, texts_of(request))) <= SHORT:
            return change_texts(request, self._told)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._heavy, change_texts, request, self._told)

    def write(
        self, answers: AsyncGenerator[list[Delta]], choices: int
    ) -> AsyncGenerator[list[Delta]]:
        """Return what may leave of `choices` answers; once all are refused, no more is made."""
        return self._written(answers, choices) if self._output else answers

    async def _written(
        self, answers: AsyncGenerator[list[Delta]], choices: int
    ) -> AsyncGenerator[list[Delta]]:
        outlets = [_Outlet(self._lane, bare=self._changes) for _ in range(choices)]
        async with aclosing(answers):
            async for pieces in answers:
                if passed := await self._passed(outlets, pieces):
                    yield passed
                if all(outlet.refused for outlet in outlets):
                    return
        broken_off = [Delta(index=index) for index in range(choices)]
        if rest := _passed(outlets, broken_off, last=True):
            yield rest

    async def _passed(self, outlets: list["_Outlet"], pieces: list[Delta]) -> list[Delta]:
        if sum(map(_length, pieces)) <= SHORT:
            return _passed(outlets, pieces)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._heavy, _passed, outlets, pieces)

    def _check(self, request: TextRequest) -> None:
        if self._changes and request.logprobs is not None and request.logprobs is not False:
            raise BadRequestError(
                "What is answered to you goes through a filter, and the tokens of `logprobs`"
                " would go around it. Leave them out.",
                code="unsupported_parameter",
                param="logprobs",
            )
        tokens = isinstance(request, CompletionRequest) and not isinstance(request.prompts[0], str)
        if tokens and any(rule.action != "flag" for rule in self._input):
            raise BadRequestError(
                "What you ask goes through a filter, which reads texts: send the prompt as one,"
                " and not as token ids.",
                code="unsupported_parameter",
                param="prompt",
            )

    def _told(self, text: str) -> str:
        lane = Lane(self._input, self._note("input"))
        said = lane.feed(text, last=True)
        if lane.stopped_by is not None:
            raise BadRequestError(
                f"The filter rule {lane.stopped_by.name!r} of your tier refuses this request."
                " Leave out what it is about.",
                code="content_filtered",
            )
        return said

    def _lane(self) -> Lane:
        return Lane(self._output, self._note("output"))

    def _note(self, side: Side) -> Note:
        def note(rule: FilterRule, detector: Detector, count: int) -> None:
            self._charge.note_filtered(rule.name, detector.label, rule.action, side, count)

        return note


def guard_of(charge: Charge, heavy: Executor) -> Guard | None:
    """Return the guard of a request; None where its caller's tier has no rules."""
    return Guard(charge, heavy) if charge.caller.filters else None


class _Outlet:
    """One answer on its way out: its reasoning, its text and its calls are texts of their own.

    Args:
        bare: leave logprobs out, which some servers send unasked: they have the text in them.
    """

    def __init__(self, make: Callable[[], Lane], *, bare: bool) -> None:
        self.refused = False
        self._bare = bare
        self._make = make
        self._lanes: dict[Hashable, Lane] = {}
        self._call: int | None = None  # the tool call whose arguments are being written

    def pass_on(self, delta: Delta, *, last: bool = False) -> Delta | None:
        """Return what may leave now; None when that is nothing."""
        last = last or delta.finish_reason is not None
        calls = bool(delta.tool_calls)
        reasoning = self._say("reasoning", delta.reasoning, last=last or calls or bool(delta.text))
        text = self._say("text", delta.text, last=last or calls)
        passed = [piece for call in delta.tool_calls for piece in self._pieces(call)]
        if last and self._call is not None:
            passed += self._rest(self._call)
        reason: FinishReason | None = "content_filter" if self.refused else delta.finish_reason
        if not (text or reasoning or passed or reason or delta.usage):
            return None
        return replace(
            delta,
            text=text,
            reasoning=reasoning,
            tool_calls=passed,
            logprobs=None if self._bare else delta.logprobs,
            finish_reason=reason,
        )

    def _pieces(self, call: ToolCall) -> list[ToolCall]:
        """Return a piece of a call, after what was held back of the one before it."""
        before: list[ToolCall] = []
        if self._call is not None and call.index != self._call:
            before = self._rest(self._call)
        self._call = call.index
        name = call.name
        if name is not None:  # comes whole
            name = self._say(("name", call.index), name, last=True)
        arguments = self._say(call.index, call.arguments)
        if self.refused and not arguments:
            return before
        return [*before, replace(call, name=name, arguments=arguments)]

    def _rest(self, index: int) -> list[ToolCall]:
        held = self._say(index, "", last=True)
        return [ToolCall(index, arguments=held)] if held else []

    def _say(self, key: Hashable, text: str, *, last: bool = False) -> str:
        """Send a piece of one of the texts through the rules; after a refusal, nothing is said."""
        lane = self._lanes.get(key)
        if self.refused or (lane is None and not text):
            return ""
        if lane is None:
            lane = self._lanes[key] = self._make()
        said = lane.feed(text, last=last)
        self.refused = lane.stopped_by is not None
        return said


def _length(delta: Delta) -> int:
    calls = sum(len(call.arguments) for call in delta.tool_calls)
    return len(delta.text) + len(delta.reasoning) + calls


def _passed(outlets: list[_Outlet], pieces: list[Delta], *, last: bool = False) -> list[Delta]:
    found = [
        outlets[delta.index].pass_on(delta, last=last)
        for delta in pieces
        if not outlets[delta.index].refused
    ]
    return [delta for delta in found if delta is not None]
