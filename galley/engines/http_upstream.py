"""Another server that runs models: one pooled client, whatever API it speaks.

Closing a stream closes its connection, which is how the other side learns to stop.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from yarl import URL

from galley.engines.http_client import Answer, Client, UnreachableError
from galley.engines.http_errors import Faults
from galley.engines.http_events import EventReader
from galley.engines.http_patience import ENDLESS, Exchange, Patience
from galley.engines.http_pool import Pool
from galley.engines.lookout import Lookout

MOST_ANSWER_BYTES = 64 << 20
MOST_REFUSAL_BYTES = 64 << 10
END_S = 0.25  # for the end of a stream to follow its last event
_SHORTEST_SECRET = 6  # characters; a shorter value of a header is a word like any other


class Upstream:
    """A client of one server.

    Args:
        url: the base URL of its API; a user and a password in it are sent as such.
        model: the model's name over there, for the log.
        key: the header that opens it, by name.
        headers: what else it wants to be sent.
        socket: of a server on this machine, in place of the host in `url`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: Mapping[str, str],
        headers: Mapping[str, str],
        patience: Patience,
        socket: Path | None = None,
    ) -> None:
        base = URL(url.rstrip("/"))
        self._lookout = None if socket else Lookout(url)  # whose child it is watches over it
        self._patience = patience
        keys = (value.removeprefix("Bearer ") for value in key.values())
        given = [*keys, *headers.values(), base.password or ""]
        hidden = [value for value in given if len(value) >= _SHORTEST_SECRET]
        key = _login(base) | dict(key)
        base = base.with_user(None)
        if not socket:
            hidden += [str(base), base.authority]
        self.faults = Faults(model, hidden)
        sent = {
            "accept-encoding": "identity",
            "user-agent": "galley",
            **{name.lower(): value for name, value in headers.items()},
            "content-type": "application/json",
            **key,
        }
        self._client = _open_client(base, sent, patience.connect, socket)

    @property
    def problem(self) -> str | None:
        """What keeps it from answering, as far as is known."""
        return self._lookout.problem if self._lookout else None

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        if self._lookout:
            await self._lookout.look()

    def exchange(self) -> Exchange:
        """Begin to count the time of a request."""
        return Exchange(self._patience)

    async def stream(
        self, path: str, body: Mapping[str, Any], exchange: Exchange
    ) -> AsyncGenerator[list[bytes]]:
        """Send `body` and yield the data of its server-sent events: what came at once, together.

        Raises:
            BadRequestError: the other side does not take this request.
            OverloadedError: nothing answers there, it broke off, or it is busy.
            EngineError: it answered with anything else but a stream of events.
            EngineTimeoutError: the first token or the next event did not come in time.
        """
        try:
            answer = await self._send(path, body, exchange)
            try:
                await self._check(answer, exchange, "text/event-stream")
                reader, size = EventReader(), 0
                while part := await _more(answer, exchange):
                    size += len(part)
                    if events := self._read(reader, part, size):
                        exchange.rest()
                        yield events
                if events := reader.end():
                    yield events
            finally:
                exchange.close()
                await _leave(answer, exchange)
        except OSError as error:
            raise self._silence(error) from error
        finally:
            exchange.close()

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Post `body` (or get, without one) and return the answer's JSON.

        Raises:
            BadRequestError, EngineError, OverloadedError, EngineTimeoutError: as `stream`.
        """
        return await self._ask(path, body, self.exchange())

    async def whole(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same for an answer that comes at its end: it may take as long as the request may."""
        return await self._ask(path, body, Exchange(ENDLESS))

    async def _ask(
        self, path: str, body: Mapping[str, Any] | None, exchange: Exchange
    ) -> dict[str, Any]:
        try:
            answer = await self._send(path, body, exchange)
            try:
                await self._check(answer, exchange)
                exchange.begun = True
                data = await _whole(answer, exchange, MOST_ANSWER_BYTES)
            finally:
                answer.close()
        except OSError as error:
            raise self._silence(error) from error
        finally:
            exchange.close()
        if len(data) > MOST_ANSWER_BYTES:
            raise self.faults.failure("its answer has no end")
        return self.read_object(data)

    def read_object(self, data: bytes) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            EngineError: it is none.
        """
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self.faults.failure("it sent no JSON") from error
        if not isinstance(found, dict):
            raise self.faults.failure("it sent no JSON object")
        return found

    async def aclose(self) -> None:
        """Close every connection."""
        if self._lookout:
            await self._lookout.aclose()
        await self._client.aclose()

    def _read(self, reader: EventReader, part: bytes, size: int) -> list[bytes]:
        if size > MOST_ANSWER_BYTES:
            raise self.faults.failure("its answer has no end")
        try:
            return reader.feed(part)
        except ValueError as error:
            raise self.faults.failure(f"it sent {error}") from error

    async def _check(self, answer: Answer, exchange: Exchange, kind: str | None = None) -> None:
        """Refuse any answer but a good one of `kind`."""
        if answer.status != 200:
            said = await _whole(answer, exchange, MOST_REFUSAL_BYTES)
            raise self.faults.refusal(answer.status, said, answer.header("retry-after"))
        if (answer.header("content-encoding") or "identity") != "identity":
            raise self.faults.failure("it sent an encoding that it was not asked for")
        if kind is not None and not (answer.header("content-type") or "").lower().startswith(kind):
            raise self.faults.failure(f"it sent no {kind}")

    async def _send(self, path: str, body: Mapping[str, Any] | None, exchange: Exchange) -> Answer:
        data, method = (b"", "GET") if body is None else (orjson.dumps(body), "POST")
        return await self._client.request(method, path, data, exchange)

    def _silence(self, error: OSError) -> Exception:
        if self._lookout and isinstance(error, UnreachableError):
            self._lookout.missed()
        return self.faults.silence(error)


def _open_client(
    base: URL, headers: Mapping[str, str], connect_s: float, socket: Path | None
) -> Client:
    if base.scheme == "https" and socket is None:
        from galley.engines.http_tls import TlsClient  # aiohttp takes megabytes

        return TlsClient(base, headers, connect_s=connect_s)
    return Pool(base, headers, connect_s=connect_s, socket=socket)


async def _more(answer: Answer, exchange: Exchange) -> bytes:
    exchange.expect(answer)
    return await answer.readany()


async def _whole(answer: Answer, exchange: Exchange, most: int) -> bytes:
    """Read an answer to its end, or to where it is longer than `most`: all of it is due at once."""
    parts: list[bytes] = []
    size = 0
    while size <= most and (part := await _more(answer, exchange)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _leave(answer: Answer, exchange: Exchange) -> None:
    """Hang up, unless the end that follows the last event comes: then the connection stays."""
    try:
        if exchange.ended and not answer.is_eof():
            with suppress(OSError):
                async with asyncio.timeout(END_S):
                    while await answer.readany():
                        pass
    finally:
        answer.close()


def _login(url: URL) -> dict[str, str]:
    if url.user is None:
        return {}
    pair = f"{url.user}:{url.password or ''}".encode()
    return {"authorization": f"Basic {b64encode(pair).decode()}"}
