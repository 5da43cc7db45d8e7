"""The output of one of OpenAI's responses as it grows, and the events that say so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from galley.dialects.citations import annotate, search_result
from galley.schemas.delta import Delta, ToolCall
from galley.schemas.grounding import Citation, Grounding

Event = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class OutputItem:
    """A message, what the model said to itself, or a call; `pieces` of its text or arguments."""

    type: Literal["message", "reasoning", "function_call"]
    id: str
    index: int
    call_id: str = ""
    name: str = ""
    status: Status = "in_progress"
    pieces: list[str] = field(default_factory=list[str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    annotations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def text(self) -> str:
        """All pieces so far."""
        return "".join(self.pieces)

    @property
    def is_whole_call(self) -> bool:
        """Whether it is a call, and its arguments need no further piece."""
        if self.type != "function_call":
            return False
        try:
            orjson.loads(self.text)
        except orjson.JSONDecodeError:
            return False
        return True

    def body(self) -> dict[str, Any]:
        """Write the item as it is now."""
        head: dict[str, Any] = {"id": self.id, "type": self.type, "status": self.status}
        if self.type == "function_call":
            return head | {"call_id": self.call_id, "name": self.name, "arguments": self.text}
        content = [self.part()] if self.pieces else []
        if self.type == "reasoning":
            return head | {"summary": [], "content": content, "encrypted_content": None}
        return head | {"role": "assistant", "content": content}

    def part(self) -> dict[str, Any]:
        """Write the one part that a message's content has, or a thought's."""
        if self.type == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        more = {"annotations": self.annotations, "logprobs": self.logprobs}
        return {"type": "output_text", "text": self.text, **more}

    def event(self, kind: str, **told: Any) -> Event:
        """Write an event on this item."""
        place = {"item_id": self.id, "output_index": self.index}
        if self.type != "function_call":
            place["content_index"] = 0
        return {"type": f"response.{kind}", **place, **told}


@dataclass(slots=True)
class SearchItem:
    """A search of documents: it is done before the model begins."""

    id: str
    query: str
    results: list[dict[str, Any]] | None
    type: Literal["file_search_call"] = "file_search_call"
    index: int = 0
    status: Status = "completed"

    def body(self) -> dict[str, Any]:
        """Write the item."""
        return {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "queries": [self.query],
            "results": self.results,
        }

    def events(self) -> list[Event]:
        """Write all that a stream says of it."""
        place = {"item_id": self.id, "output_index": self.index}
        begun = self.body() | {"status": "in_progress", "results": None}
        kinds = ("in_progress", "searching", "completed")
        return [
            {"type": "response.output_item.added", "output_index": self.index, "item": begun},
            *({"type": f"response.file_search_call.{kind}", **place} for kind in kinds),
            {"type": "response.output_item.done", "output_index": self.index, "item": self.body()},
        ]


class Output:
    """Puts the pieces of an answer into items.

    Args:
        response: the hex of the response's id; items have theirs from it.
    """

    def __init__(self, response: str) -> None:
        self._response = response
        self._items: list[OutputItem | SearchItem] = []
        self._citations: Sequence[Citation] = ()
        self._calls: dict[int, OutputItem] = {}  # the latest of each number

    def bodies(self) -> list[dict[str, Any]]:
        """Write every item as it is now."""
        return [item.body() for item in self._items]

    def search(self, grounding: Grounding, *, with_results: bool) -> list[Event]:
        """Begin with what was found for the answer, and say so."""
        results = [search_result(one) for one in grounding.citations] if with_results else None
        item = SearchItem(self._id("fs"), grounding.query, results)
        self._items.append(item)
        self._citations = grounding.citations
        return item.events()

    def add(self, delta: Delta) -> list[Event]:
        """Take in what `delta` brought, and say what is new."""
        events: list[Event] = []
        if delta.reasoning:
            events += self._speak("reasoning", delta.reasoning)
        if delta.text or delta.logprobs:
            events += self._speak("message", delta.text, _logprobs(delta))
        for call in delta.tool_calls:
            events += self._call(call)
        return events

    def close(self, status: Status) -> list[Event]:
        """End what has not ended yet: as `status`, but for calls whose arguments are whole."""
        events: list[Event] = []
        for item in self._open():
            events += self._closing(item, "completed" if item.is_whole_call else status)
        return events

    def _open(self) -> list[OutputItem]:
        return [
            item
            for item in self._items
            if isinstance(item, OutputItem) and item.status == "in_progress"
        ]

    def _closing(self, item: OutputItem, status: Status) -> Iterator[Event]:
        """Say where the text names its sources, and end it."""
        if item.type == "message":
            for number, annotation in enumerate(annotate(item.text, self._citations)):
                item.annotations.append(annotation)
                told = {"annotation_index": number, "annotation": annotation}
                yield item.event("output_text.annotation.added", **told)
        yield from _closing(item, status)

    def _speak(
        self, kind: Literal["message", "reasoning"], text: str, logprobs: Any = ()
    ) -> Iterator[Event]:
        item = self._items[-1] if self._items else None
        if not isinstance(item, OutputItem) or item.type != kind or item.status != "in_progress":
            item = OutputItem(kind, self._id("msg" if kind == "message" else "rs"), self._next)
            yield from self._begin(item)
            yield item.event("content_part.added", part=item.part())
        item.pieces.append(text)
        if kind == "reasoning":
            yield item.event("reasoning_text.delta", delta=text)
            return
        item.logprobs += logprobs
        yield item.event("output_text.delta", delta=text, logprobs=[*logprobs])

    def _call(self, call: ToolCall) -> Iterator[Event]:
        item = self._calls.get(call.index)
        if item is None or call.id not in (None, item.call_id):  # some servers number all 0
            identity = call.id or f"call_{self._response}_{self._next}"
            item = OutputItem(
                "function_call", self._id("fc"), self._next, identity, call.name or ""
            )
            self._calls[call.index] = item
            yield from self._begin(item)
        if call.arguments and item.status == "in_progress":
            item.pieces.append(call.arguments)
            yield item.event("function_call_arguments.delta", delta=call.arguments)

    def _begin(self, item: OutputItem) -> Iterator[Event]:
        """Close what is whole, and open another item.

        Pieces of calls may come mixed: a call whose arguments are not whole stays open.
        """
        for other in self._open():
            if other.type != "function_call" or other.is_whole_call:
                yield from self._closing(other, "completed")
        self._items.append(item)
        added = {"output_index": item.index, "item": item.body()}
        yield {"type": "response.output_item.added", **added}

    @property
    def _next(self) -> int:
        return len(self._items)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._response}_{self._next}"


def _closing(item: OutputItem, status: Status) -> Iterator[Event]:
    item.status = status
    if item.type == "function_call":
        yield item.event("function_call_arguments.done", arguments=item.text)
    else:
        if item.type == "message":
            yield item.event("output_text.done", text=item.text, logprobs=item.logprobs)
        else:
            yield item.event("reasoning_text.done", text=item.text)
        yield item.event("content_part.done", part=item.part())
    done = {"output_index": item.index, "item": item.body()}
    yield {"type": "response.output_item.done", **done}


def _logprobs(delta: Delta) -> list[dict[str, Any]]:
    return [
        _token(token) | {"top_logprobs": [_token(other) for other in token.get("top_logprobs", ())]}
        for token in delta.logprobs or ()
    ]


def _token(token: dict[str, Any]) -> dict[str, Any]:
    text = token["token"]
    known = token.get("bytes")
    written = known if isinstance(known, list) else [*text.encode()]
    return {"token": text, "logprob": token["logprob"], "bytes": written}
