"""One way to Redis for many who wait: what is asked at the same time travels together.

Alone, a command leaves at once; those that come while it is away make the next round trip
together, over the same connection. Nobody who hangs up takes the connection with them.
"""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files
from types import TracebackType
from typing import Any, Self

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import NoScriptError, ResponseError

TIMEOUT_S = 0.4
SLICES = 8
LATE = SLICES
TOGETHER = 128

Command = tuple[bytes | str | int, ...]


class Script:
    """Lua from a file beside this one, and what Redis calls it."""

    def __init__(self, name: str) -> None:
        self.text = files("galley.stores").joinpath(name).read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class LostError(Exception):
    """Redis gives no answer, or not the one it should."""


class Patience:
    """Times out like `asyncio.timeout`, but counts only silence, while this loop turned in time.

    While something holds up the loop, an answer lies unread: that is not Redis's fault. So a slice
    of the time that ends late is not counted; for `LATE` of them, or nobody would ever give up.
    """

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = asyncio.timeout(None)
        self._slice_s = timeout_s / SLICES
        self._slices = SLICES
        self._late = LATE

    async def __aenter__(self) -> Self:
        await self._deadline.__aenter__()
        self._begin_slice()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._timer.cancel()
        return await self._deadline.__aexit__(kind, error, trace)

    def heard(self) -> None:
        """Begin anew: it has said something."""
        self._slices = SLICES

    def _begin_slice(self) -> None:
        self._due = self._loop.time() + self._slice_s
        self._timer = self._loop.call_at(self._due, self._turned)

    def _turned(self) -> None:
        if self._late and self._loop.time() - self._due > self._slice_s / 2:
            self._late -= 1
        else:
            self._slices -= 1
        if self._slices:
            self._begin_slice()
        else:
            self._deadline.reschedule(self._loop.time())


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task that uses Redis until it ends.

    The client swallows a cancellation that comes while it connects anew.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


class RedisPipe:
    """Sends commands and scripts.

    Args:
        scripts: loaded where Redis does not know them.
        timeout_s: for one round trip.
    """

    def __init__(
        self, redis: Redis, scripts: Sequence[Script], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._queued: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._socket_timeout: float | None = None

    def send(self, *command: bytes | str | int) -> asyncio.Future[Any]:
        """Queue a command; gives its answer.

        Returns:
            A future that raises `LostError`. It need not be awaited.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queued.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_queued())
        return answer

    def run(
        self, script: Script, keys: Sequence[str], *args: bytes | str | int
    ) -> asyncio.Future[Any]:
        """Queue one of the scripts. Returns what `send` returns."""
        return self.send("EVALSHA", script.sha, len(keys), *keys, *args)

    async def aclose(self) -> None:
        """Wait for what is under way, and let go of the connection; before the client is closed."""
        while self._sender is not None:
            await asyncio.wait([self._sender])
        if self._connection is not None:
            await self._give_back(self._connection)

    async def _send_queued(self) -> None:
        while self._queued:
            batch, self._queued = self._queued[:TOGETHER], self._queued[TOGETHER:]
            try:
                async with Patience(self._timeout_s) as patience:
                    answers = await self._ask([command for command, _ in batch], patience)
            # Whatever the way breaks with, the libraries below name it in many ways.
            except Exception as error:
                # Those who queued behind have waited as long, and would meet the same.
                batch, self._queued = batch + self._queued, []
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                _deliver(future, answer)
        self._sender = None

    async def _ask(self, commands: Sequence[Command], patience: Patience) -> list[Any]:
        answers = await self._round_trip(commands)
        again = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if again:
            for script in self._scripts:
                patience.heard()
                await self._redis.script_load(script.text)
            patience.heard()
            repeated = await self._round_trip([commands[n] for n in again])
            for n, answer in zip(again, repeated, strict=True):
                answers[n] = answer
        return answers

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._exchange(commands)
        except NoConnectionError:  # it may have been closed since it was last used
            return await self._exchange(commands)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection or await self._connect()
        try:
            # Their stub takes a tuple for one of one element.
            packed = map(pack_command, commands)  # pyright: ignore[reportArgumentType]
            await connection.send_packed_command(b"".join(packed))
            return [await _read(connection) for _ in commands]
        except BaseException:  # an answer that was not read would be taken for another's
            await self._give_back(connection)
            raise

    async def _give_back(self, connection: AbstractConnection) -> None:
        self._connection, connection.socket_timeout = None, self._socket_timeout
        await connection.disconnect(nowait=True)
        await self._redis.connection_pool.release(connection)

    async def _connect(self) -> AbstractConnection:
        """Take a connection to keep: asking the client each time costs three times as much."""
        connection = await self._redis.connection_pool.get_connection()
        # Patience is ours.
        self._socket_timeout, connection.socket_timeout = connection.socket_timeout, None
        self._connection = connection
        return connection


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error


def _deliver(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():  # by being cancelled
        return
    if isinstance(answer, Exception):
        lost = LostError(f"{type(answer).__name__}: {answer}")
        lost.__cause__ = answer
        future.set_exception(lost)
        future.exception()  # seen: who does not wait does not want to hear of it either
    else:
        future.set_result(answer)
