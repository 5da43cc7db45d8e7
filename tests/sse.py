"""Server-sent events, read strictly: what a browser would skip, a test should see."""

from typing import Any

import httpx2
import orjson

DONE = "[DONE]"


def read_events(answer: httpx2.Response) -> list[Any]:
    """The JSON of each event; the end of a good stream is `DONE`.

    Source: WHATWG HTML, section 9.2.
    """
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = answer.text.split("\n\n")
    assert rest == "", "the last event is not finished"
    data = [_data(event) for event in events if not event.startswith(":")]
    return [DONE if item == DONE else orjson.loads(item) for item in data]


def _data(event: str) -> str:
    assert event.startswith("data: "), event
    assert "\n" not in event, event
    return event.removeprefix("data: ")


def read_named_events(answer: httpx2.Response) -> list[Any]:
    """The JSON of each of Anthropic's events, which are named by their type."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = answer.text.split("\n\n")
    assert rest == "", "the last event is not finished"
    return [_named(event) for event in events if not event.startswith(":")]


def _named(event: str) -> Any:
    name, _, data = event.partition("\n")
    found = orjson.loads(_data(data))
    assert name == f"event: {found['type']}"
    return found
