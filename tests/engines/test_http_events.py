"""Server-sent events, cut anywhere."""

import pytest

from galley.engines.http_events import MOST_EVENT_BYTES, EventReader

STREAM = (
    b": hello\n\ndata: {\n"
    b"data:  1}\r\nid: 7\r\n\r\n"
    b"event: ping\ndata\n\n"
    b"data:two\n\n\n"
    b'data: "\xc3\xa9"\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_stream_is_cut(size: int) -> None:
    reader = EventReader()

    found = [
        event for i in range(0, len(STREAM), size) for event in reader.feed(STREAM[i : i + size])
    ]

    assert found == [b"{\n1}", b"two", b'"\xc3\xa9"']
    assert reader.end() == []


def test_what_was_begun_when_the_stream_ended_is_an_event() -> None:
    reader = EventReader()

    before = reader.feed(b"data: one\n\ndata: [DONE]")

    assert (before, reader.end(), reader.end()) == ([b"one"], [b"[DONE]"], [])


@pytest.mark.parametrize("part", [b"x" * 1000, b"data:" + b"x" * 994 + b"\n"])
def test_an_event_without_an_end_is_not_gathered_for_ever(part: bytes) -> None:
    reader = EventReader()
    for _ in range(MOST_EVENT_BYTES // 1000):
        reader.feed(part)

    with pytest.raises(ValueError, match="more than"):
        reader.feed(part)
