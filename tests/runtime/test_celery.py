"""Servers wake workers through a broker, and nobody waits for one that is away."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from galley.core.settings import SettingsError
from galley.db.session import Database
from galley.runtime.celery import OVERDUE, QUEUE, CelerySender, make_celery
from galley.services.job_kinds import JobRun
from tests.redis_server import RedisServer
from tests.routers.office import open_app
from tests.services.job_office import JobOffice
from tests.serving import make_settings

pytestmark = pytest.mark.anyio


async def nothing(_: JobRun) -> dict[str, Any]:
    return {}


def sender(office: JobOffice, redis: RedisServer, folder: Path) -> CelerySender:
    url = redis.url.replace("unix://", "redis+socket://")
    settings = make_settings(folder, folder, broker_url=url)
    sessions = office.database.sessions
    return CelerySender(make_celery(settings), sessions, office.keeper, clock=lambda: office.now)


async def until_sent(redis: Redis, count: int) -> None:
    async with asyncio.timeout(20):
        while await redis.llen(QUEUE) != count:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)


async def test_a_job_that_is_begun_is_a_message(
    database: Database, redis_server: RedisServer, redis_client: Redis, tmp_path: Path
) -> None:
    office = JobOffice(database, nothing)
    sending = sender(office, redis_server, tmp_path)
    task = asyncio.create_task(sending.send())

    await sending.start("one")
    await until_sent(redis_client, 1)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    message = await redis_client.lindex(QUEUE, 0)
    assert "galley.run_job" in str(message)


async def test_what_was_accepted_while_the_broker_was_away_is_reminded_of(
    database: Database, own_redis: RedisServer, tmp_path: Path
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    sending = sender(office, own_redis, tmp_path)
    own_redis.stop()
    task = asyncio.create_task(sending.send())
    job_id = await office.submit(ada)
    async with asyncio.timeout(1):  # it is not waited for
        await sending.start(job_id)
    own_redis.start()

    office.now += OVERDUE + timedelta(seconds=1)
    async with own_redis.client() as redis:
        await sending.remind()
        async with asyncio.timeout(20):
            while not await redis.llen(QUEUE):  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.02)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_not_overdue_is_not_reminded_of(
    database: Database, redis_server: RedisServer, redis_client: Redis, tmp_path: Path
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    sending = sender(office, redis_server, tmp_path)
    task = asyncio.create_task(sending.send())
    await office.submit(ada)

    await sending.remind()
    await sending.start("another")
    await until_sent(redis_client, 1)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_server_on_sqlite_has_no_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    url = redis_server.url.replace("unix://", "redis+socket://")
    settings = make_settings(tmp_path, tmp_path, broker_url=url, embedded_models=False)

    with pytest.raises(SettingsError, match="GALLEY_DATABASE_URL=postgresql"):
        async with open_app(settings):
            pass
