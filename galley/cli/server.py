"""The server of `galley serve`, from its start to its last answer."""

import asyncio
import math
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from galley.cli.console import say
from galley.cli.listening import why_not
from galley.cli.welcome import Welcome
from galley.core.heap import freeze_heap
from galley.core.settings import Settings, SettingsError
from galley.main import create_app
from galley.routers.protocol import make_protocol
from galley.runtime import Runtime

CUT_OFF_S = 5.0  # seconds for those who are cut off to be booked
# So long may another thread go on when the event loop has something to do; Python's own is 5 ms,
# and of five threads that read pictures each may have its turn first.
TURN_S = 0.001


def run_server(settings: Settings, listener: socket.socket) -> None:
    """Serve on `listener` until a signal comes.

    Raises:
        SettingsError: it cannot start with these settings.
    """
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
        runtime.jobs.feed.close()

    server = _Server(config, settings, started, stopping)
    with server.capture_signals():  # also while the parts are opened and closed
        async with app.router.lifespan_context(app):
            await welcome.try_key(app.state.runtime.accounts)
            await server.serve(sockets=[listener])
            for task in tasks:
                task.cancel()


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
        await super().shutdown(sockets)
        if tasks := list(self.server_state.tasks):
            say(f"Ending; {_answers(len(tasks))} cut off.")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CUT_OFF_S)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Finish in order and exit 0; uvicorn would end by raising the signal once more."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"
