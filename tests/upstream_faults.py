"""How a model's server misbehaves: bad manners that are still an answer, and every way to fail."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.upstream import Call, as_event


async def missing_done(call: Call) -> None:
    """End the stream without its last event."""
    await call.begin()
    await call.events(*call.good()[:-1])


async def missing_usage(call: Call) -> None:
    """Never say how many tokens it took."""
    await call.begin()
    events = [json.loads(e) if e != "[DONE]" else e for e in call.good()]
    for event in events:
        if isinstance(event, dict):
            event.pop("usage", None)
            event.get("message", {}).pop("usage", None)
    kept = [e for e in events if e != {"choices": []}]
    await call.events(*[e if isinstance(e, str) else json.dumps(e) for e in kept])


async def utf8_split(call: Call) -> None:
    """Break a letter in two, chunks and packets alike."""
    await call.begin()
    for item in [*call.good()[:2], call.piece("é")]:
        for half in _halves(as_event(json.dumps(json.loads(item), ensure_ascii=False))):
            await call.chunk(half)
            await asyncio.sleep(0.01)
    await call.events(*call.good()[2:])


def _halves(data: bytes) -> list[bytes]:
    place = next((i + 1 for i, byte in enumerate(data) if byte > 127), len(data) // 2)
    return [data[:place], data[place:]]


async def crlf(call: Call) -> None:
    """End lines as HTTP does."""
    await call.begin()
    for item in call.good():
        data = as_event(item).replace(b"\n", b"\r\n")
        await call.chunk(data[:-1])  # and break one in two
        await asyncio.sleep(0.001)
        await call.chunk(data[-1:])
    await call.send(b"0\r\n\r\n")


async def comments(call: Call) -> None:
    """Say what is for nobody between the events, and name them."""
    await call.begin()
    for item in call.good():
        await call.chunk(b": keep-alive\n\nid: 7\nevent: message\nretry: 10\n" + as_event(item))
    await call.send(b"0\r\n\r\n")


async def several_data_lines(call: Call) -> None:
    """Write each event's JSON over several lines."""
    await call.begin()
    for item in call.good():
        text = item if item == "[DONE]" else json.dumps(json.loads(item), indent=1)
        lines = "".join(f"data:{line}\n" for line in text.split("\n"))
        await call.chunk(lines.encode() + b"\n")
    await call.send(b"0\r\n\r\n")


async def hang_after_the_end(call: Call) -> None:
    """Say everything, and then keep the stream open."""
    await call.begin()
    await call.events(*call.good(), end=False)
    await call.hung_up()


async def hang_before_headers(call: Call) -> None:
    """Take the request and say nothing."""
    await call.hung_up()


async def hang_before_the_first_token(call: Call) -> None:
    """Say that it works on it, and no more."""
    await call.begin()
    await call.events(call.good()[0], end=False)
    with suppress(OSError):
        while not call.writer.is_closing():
            await call.chunk(b": working\n\n")
            await asyncio.sleep(0.02)


async def hang_mid_stream(call: Call) -> None:
    """Stop in the middle, the connection open."""
    await call.begin()
    await call.events(*call.good()[:5], end=False)
    await call.hung_up()


async def cut_before_headers(call: Call) -> None:
    """Take the request and hang up."""
    call.writer.transport.abort()


async def cut_mid_stream(call: Call) -> None:
    """Reset the connection in the middle."""
    await call.begin()
    await call.events(*call.good()[:5], end=False)
    await asyncio.sleep(0.02)
    call.writer.transport.abort()


async def end_mid_stream(call: Call) -> None:
    """End the stream in the middle, as if that was all."""
    await call.begin()
    await call.events(*call.good()[:5])


async def truncated_chunk(call: Call) -> None:
    """Promise more bytes than come."""
    await call.begin()
    await call.send(b"ffff\r\n" + as_event(call.good()[0]))
    call.writer.close()


async def garbage_json(call: Call) -> None:
    """Send what is no JSON."""
    await call.begin()
    await call.events("{broken")


async def garbage_http(call: Call) -> None:
    """Speak something else."""
    await call.send(b"220 mail.example.org ESMTP\r\n")
    call.writer.close()


async def wrong_type(call: Call) -> None:
    """Send a page."""
    await call.whole(200, "<html>Welcome</html>", type_="text/html")


async def compressed(call: Call) -> None:
    """Compress what nobody asked to have compressed."""
    await call.whole(200, "x", type_="text/event-stream", content_encoding="gzip")


async def busy(call: Call) -> None:
    """Say in seconds when to come back."""
    await call.whole(429, {"error": {"message": "slow down, sk-other"}}, retry_after="7")


async def busy_until_a_date(call: Call) -> None:
    """Say by the clock when to come back."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    await call.whole(503, "", type_="text/html", retry_after=date)


async def overloaded(call: Call) -> None:
    """Say so with Anthropic's own number."""
    await call.whole(529, {"type": "error", "error": {"type": "overloaded_error", "message": ""}})


async def internal_error(call: Call) -> None:
    """Fail, and tell everything."""
    await call.whole(500, {"error": {"message": f"{call.headers} at {call.path}"}})


async def bad_key(call: Call) -> None:
    """Refuse the key, and quote it."""
    await call.whole(401, {"error": {"message": f"Incorrect API key provided: {call.headers}"}})


async def no_such_model(call: Call) -> None:
    """Not know the model."""
    await call.whole(404, {"error": {"message": "model not found", "type": "not_found_error"}})


async def redirect(call: Call) -> None:
    """Send them elsewhere."""
    await call.whole(302, "", location="http://127.0.0.1:1/elsewhere")


async def drip(call: Call) -> None:
    """Send a byte at a time, so slowly that no event is ever whole."""
    await call.begin()
    with suppress(OSError):
        for byte in as_event(call.piece("x" * 10_000)):
            await call.chunk(bytes([byte]))
            await asyncio.sleep(0.02)


async def endless(call: Call) -> None:
    """Never come to an end."""
    await call.begin()
    with suppress(OSError):
        while not call.writer.is_closing():
            await call.events(call.piece("x" * 500_000), end=False)


async def huge_event(call: Call) -> None:
    """Send one event that has no end."""
    await call.begin()
    with suppress(OSError):
        while not call.writer.is_closing():
            await call.chunk(b"data: " + b"x" * 1_000_000)


async def nothing_chosen(call: Call) -> None:
    """Answer without an answer."""
    await call.begin()
    if call.anthropic:
        await call.events(call.good()[0], call.good()[-1])
    else:
        await call.events('{"choices": []}', "[DONE]")


async def error_event(call: Call) -> None:
    """Fail in the middle, and say why."""
    await call.begin()
    error = {"type": "api_error", "message": f"out of memory: {call.headers}"}
    await call.events(*call.good()[:5], json.dumps({"type": "error", "error": error}))


async def refusal(call: Call) -> None:
    """Refuse the request for what is in it."""
    error = {"type": "invalid_request_error", "message": "temperature is too high"}
    await call.whole(400, {"type": "error", "error": error})
