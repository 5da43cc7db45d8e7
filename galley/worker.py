"""`galley worker`: the same runtime without the API, where Celery has the jobs done."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from galley.core.metrics import PAGE_TYPE, Metrics
from galley.core.settings import Settings, SettingsError
from galley.db.engine import is_sqlite, parse_url
from galley.routers import side_door
from galley.runtime import Runtime, open_runtime
from galley.runtime.celery import QUEUE, RUN_JOB, make_celery


def run_worker(settings: Settings, *, metrics_port: int | None = None) -> int:
    """Work until a signal comes; return the exit code.

    Args:
        metrics_port: where `/metrics` is served; unset, nowhere.
    Raises:
        SettingsError: there is no broker or no database that can be shared, or the port is taken.
    """
    celery: Any = make_celery(settings)
    if is_sqlite(parse_url(settings.database_url.get_secret_value())):
        raise SettingsError(
            "Workers share the server's database, and SQLite has one user. Set"
            " GALLEY_DATABASE_URL=postgresql://user@host/galley for both."
        )
    from celery.signals import worker_shutting_down

    listener = None if metrics_port is None else _listen(settings.host, metrics_port)
    with _running(settings, listener) as (runtime, loop):
        runner = runtime.jobs.runner

        def run_job(job_id: str) -> None:
            """Do the job whose turn it is, most often this one, and what else is due."""
            asyncio.run_coroutine_threadsafe(runner.work(), loop).result()

        def close(**_: object) -> None:
            loop.call_soon_threadsafe(runner.close)

        celery.task(name=RUN_JOB)(run_job)
        worker_shutting_down.connect(close, weak=False)
        worker = celery.Worker(
            pool="threads",
            concurrency=settings.job_concurrency,
            queues=[QUEUE],
            loglevel=settings.log_level,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )
        worker.start()
        return worker.exitcode or 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise SettingsError(
            f"Metrics cannot be served on port {port} of {host}: {error.strerror}. Choose another"
            " --metrics-port."
        ) from error


@contextmanager
def _running(
    settings: Settings, listener: socket.socket | None
) -> Generator[tuple[Runtime, asyncio.AbstractEventLoop]]:
    """Run the runtime on a thread of its own, with an event loop; close it on leaving.

    Args:
        listener: where its metrics are served.

    Raises:
        SettingsError: it cannot be opened.
    """
    opened: Future[tuple[Runtime, asyncio.AbstractEventLoop]] = Future()
    closing = asyncio.Event()

    async def live() -> None:
        async with (
            open_runtime(settings, side_door.answer, is_worker=True) as runtime,
            _page(runtime.metrics, listener) if listener else nullcontext(),
        ):
            opened.set_result((runtime, asyncio.get_running_loop()))
            await closing.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    thread = threading.Thread(target=run, name="galley-runtime")
    thread.start()
    try:
        runtime, loop = opened.result()
        try:
            yield runtime, loop
        finally:
            loop.call_soon_threadsafe(closing.set)
    finally:
        thread.join()


@asynccontextmanager
async def _page(metrics: Metrics, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve `/metrics` on `listener`, and nothing else."""

    async def page(_: Request) -> Response:
        return Response(await metrics.render(), media_type=PAGE_TYPE)

    app = Starlette(routes=[Route("/metrics", page)])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
