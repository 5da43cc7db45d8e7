"""`galley worker`: the same runtime without HTTP, where Celery has the jobs done."""

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from galley.core.settings import Settings, SettingsError
from galley.db.engine import is_sqlite, parse_url
from galley.routers import side_door
from galley.runtime import Runtime, open_runtime
from galley.runtime.celery import QUEUE, RUN_JOB, make_celery


def run_worker(settings: Settings) -> int:
    """Work until a signal comes; return the exit code.

    Raises:
        SettingsError: there is no broker or no database that can be shared.
    """
    celery: Any = make_celery(settings)
    if is_sqlite(parse_url(settings.database_url.get_secret_value())):
        raise SettingsError(
            "Workers share the server's database, and SQLite has one user. Set"
            " GALLEY_DATABASE_URL=postgresql://user@host/galley for both."
        )
    from celery.signals import worker_shutting_down

    with _running(settings) as (runtime, loop):
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


@contextmanager
def _running(settings: Settings) -> Generator[tuple[Runtime, asyncio.AbstractEventLoop]]:
    """Run the runtime on a thread of its own, with an event loop; close it on leaving.

    Raises:
        SettingsError: it cannot be opened.
    """
    opened: Future[tuple[Runtime, asyncio.AbstractEventLoop]] = Future()
    closing = asyncio.Event()

    async def live() -> None:
        async with open_runtime(settings, side_door.answer, is_worker=True) as runtime:
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
