"""The server of `galley serve`, from its start to its last answer."""

import asyncio
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from galley.cli.console import say
from galley.cli.listening import why_not
from galley.cli.welcome import Welcome
from galley.core.heap import freeze_heap
from galley.core.process import allow_open_files
from galley.core.settings import Settings, SettingsError
from galley.main import create_app
from galley.routers.protocol import WatchedProtocol, make_protocol
from galley.runtime import Runtime

CUT_OFF_S = 5.0  # seconds for those who are cut off to be booked
LINGER_S = 3.0
"""How long idle connections stay open after SIGTERM; deploy/nginx.conf drops them sooner."""
# So long may another thread go on when the event loop has something to do; Python's own is 5 ms,
# and of five threads that read pictures each may have its turn first.
TURN_S = 0.001


def run_server(settings: Settings, listener: socket.socket) -> None:
    """Serve on `listener` until a signal comes.

    Raises:
        SettingsError: it cannot start with these settings.
    """
    allow_open_files()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=make_protocol(settings),
        ws="none",
        lifespan="off",  # entered below
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.grace_period),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(settings, app, config, listener))


async def _serve(
    settings: Settings, app: FastAPI, config: uvicorn.Config, listener: socket.socket
) -> None:
    welcome = Welcome(settings, port=listener.getsockname()[1])
    tasks: list[asyncio.Task[None]] = []

    def started() -> None:
        freeze_heap()
        sys.setswitchinterval(TURN_S)
        runtime: Runtime = app.state.runtime
        welcome.show(runtime.first_key)
        tasks.append(asyncio.create_task(welcome.follow(runtime.models)))

    def stopping() -> None:
        runtime: Runtime = app.state.runtime
        runtime.shedding.stopping = True
        runtime.jobs.feed.close()
        runtime.jobs.runner.close()

    server = _Server(config, settings, started, stopping)
    with server.capture_signals():  # also while the parts are opened and closed
        try:
            async with app.router.lifespan_context(app):
                server.opened()
                await welcome.try_key(app.state.runtime.accounts)
                await server.serve(sockets=[listener])
                for task in tasks:
                    task.cancel()
        except asyncio.CancelledError:
            if not server.should_exit:
                raise  # else it was told to stop before it had begun


class _Server(uvicorn.Server):
    """uvicorn's server; `on_started` is called once it listens, `on_stopping` when it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        on_started: Callable[[], None],
        on_stopping: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._in_a_hurry = False
        self._opening = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    def opened(self) -> None:
        """From now on a signal waits for answers; until then it stops the start."""
        self._opening = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # another server listened first
            raise SettingsError(why_not(self._settings, error)) from error
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut off who is not done after the grace period, while the ledger can still book it."""
        self._on_stopping()
        if self.server_state.tasks:
            answers, most = _answers(len(self.server_state.tasks)), self._settings.grace_period
            say(f"Finishing {answers} (up to {most:g} s); Ctrl-C again ends at once.")
        if not self._in_a_hurry:
            await self._drain(sockets or [])
        await super().shutdown(sockets)
        if tasks := list(self.server_state.tasks):
            say(f"Ending; {_answers(len(tasks))} cut off.")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CUT_OFF_S)

    async def _drain(self, listeners: list[socket.socket]) -> None:
        """Take nobody new, and wait until everybody is served and gone, for the grace period.

        Who connects is refused by the system, which tells a load balancer for sure that nothing was
        taken; who is connected is told so by the gate (`routers/gate.py`).
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.grace_period
        taken = [connection for listener in listeners for connection in _queued(listener)]
        for server in self.servers:
            server.close()
        for connection in taken:
            await loop.connect_accepted_socket(self._new_protocol, connection)
        state = self.server_state
        for protocol in list(state.connections):
            cast("WatchedProtocol", protocol).drain(LINGER_S)
        while (state.connections or state.tasks) and not self.force_exit:
            if loop.time() > end:
                self.config.timeout_graceful_shutdown = 0
                return
            await asyncio.sleep(0.05)

    def _new_protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        state = self.lifespan.state
        return make(config=self.config, server_state=self.server_state, app_state=state)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Finish in order and exit 0; uvicorn would end by raising the signal once more."""
        self._in_a_hurry = sig == signal.SIGINT  # somebody waits at a terminal
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        if self._opening is not None:
            self._loop.call_soon_threadsafe(self._opening.cancel)


def _queued(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept who has connected and would be cut off when the listener closes."""
    listener.setblocking(False)
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"
