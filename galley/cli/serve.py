"""`galley serve`: the server, from the settings to the last answer."""

import asyncio
import errno
import math
import signal
import socket
import sys
from collections.abc import Callable
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from galley.cli.configuration import DataDirOption, read_settings
from galley.cli.console import ExitCode, fail, say
from galley.cli.downloads import fetch_missing
from galley.cli.welcome import Welcome
from galley.core.heap import freeze_heap
from galley.core.logging import configure_logging
from galley.core.settings import Settings, SettingsError
from galley.main import create_app
from galley.routers.protocol import make_protocol
from galley.runtime import Runtime

app = typer.Typer(add_completion=False)

CUT_OFF_S = 5.0  # seconds for those who are cut off to be booked
# So long may another thread go on when the event loop has something to do; Python's own is 5 ms,
# and of five threads that read pictures each may have its turn first.
TURN_S = 0.001


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; unset: GALLEY_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port, 0: a free one; unset: GALLEY_PORT."),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Start the server with its models.

    The first start makes an API key and shows it once. Every setting is a GALLEY_ variable or a
    line of the TOML file; galley config explain lists them.
    """
    settings = read_settings(host=host, port=port, data_dir=data_dir)
    configure_logging(settings)
    listener = _bind(settings)
    fetch_missing(settings.catalogue, settings.models_dir)
    try:
        _run(settings, listener)
    except SettingsError as error:
        fail(str(error), ExitCode.USAGE)


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
            raise SettingsError(_why_not(self._settings, error)) from error
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


def _run(settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal comes; errors of the start are raised, not logged with a trace."""
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


def _bind(settings: Settings) -> socket.socket:
    """Take the address before anything slow happens; nobody can connect before it listens."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        # Named, the protocol gets TCP_NODELAY from every event loop, asyncio's own included.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        fail(_why_not(settings, error))
    return listener


def _why_not(settings: Settings, error: OSError) -> str:
    host, port = settings.host, settings.port
    if error.errno == errno.EADDRINUSE:
        another = f"galley serve --port {port + 1 if port < 65535 else 8000}"
        return (
            f"Port {port} on {host} is taken. By another program? Choose another port: {another}. "
            "By Galley? Use it as it is, or stop it; a second one needs data of its own as well: "
            f"{another} --data-dir ./galley-2"
        )
    if error.errno == errno.EACCES:
        return f"Port {port} is for root alone. Choose one above 1023: galley serve --port 8000"
    return f"Cannot listen on {host}: {error.strerror}. Choose an address of this machine: --host"
