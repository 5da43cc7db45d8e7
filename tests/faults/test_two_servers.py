"""Two servers over one PostgreSQL: what one has open is not touched while it lives."""

import asyncio
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx2
import orjson
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.security import make_key
from galley.db.session import open_database
from galley.db.tables import ApiRequest, Instance, Price, utc_now
from galley.services.instances import BEAT_S, SILENT
from tests.cli.program import environment, run
from tests.databases import visit
from tests.loopback import HANG, scripted_server
from tests.node import galley_serve
from tests.redis_server import RedisServer
from tests.serving import make_settings, serving
from tests.waiting import until

MODEL = "far"


@pytest.mark.slow
def test_open_requests_are_interrupted_when_their_server_is_dead_and_not_before(
    models_dir: Path, tmp_path: Path, postgresql_url: str, redis_server: RedisServer
) -> None:
    key = make_key()
    make_database(postgresql_url)
    with scripted_server([HANG]) as far:
        model = {MODEL: {"kind": "chat", "source": far.base_url}}
        shared = {
            "GALLEY_DATABASE_URL": postgresql_url,
            "GALLEY_REDIS_URL": redis_server.url,
            "GALLEY_EMBEDDED_MODELS": "false",
            "GALLEY_MODELS": orjson.dumps(model).decode(),
        }
        with galley_serve(tmp_path, models_dir, key, **shared) as (url, pid), asking(url, key):
            until(lambda: states(postgresql_url) == ["open"])
            second = make_settings(
                tmp_path / "two", models_dir, embedded_models=False,
                database_url=postgresql_url, redis_url=redis_server.url,
            )  # fmt: skip
            with serving(second):
                assert states(postgresql_url) == ["open"]

                os.kill(pid, signal.SIGKILL)
                silence(postgresql_url)

                until(lambda: states(postgresql_url) == ["interrupted"], BEAT_S + 10)


def test_a_second_server_on_one_postgresql_without_redis_is_refused_at_the_start(
    tmp_path: Path, postgresql_url: str
) -> None:
    first = make_settings(
        tmp_path / "one", tmp_path, database_url=postgresql_url, embedded_models=False
    )
    second = environment(tmp_path / "two", database_url=postgresql_url, embedded_models=False)
    with serving(first):
        refused = run("serve", "--port", 0, env=second)

    with serving(first) as server:  # nothing is left of either
        health = server.client.get("/health/ready")

    assert refused.returncode == 2
    assert "Another server is using postgresql://" in refused.stderr
    assert "GALLEY_REDIS_URL" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert health.status_code == 200


@contextmanager
def asking(url: str, key: str) -> Generator[None]:
    """Ask for an answer that never comes, until the server dies."""

    def ask() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}]}
        headers = {"authorization": f"Bearer {key}"}
        with suppress(httpx2.TransportError):
            httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    thread.join()


def make_database(url: str) -> None:
    async def make() -> None:
        async with open_database(url) as database, database.sessions.begin() as session:
            session.add(Price(model=MODEL))

    asyncio.run(make())


def states(url: str) -> Sequence[str]:
    async def read(session: AsyncSession) -> Sequence[str]:
        return (await session.scalars(select(ApiRequest.state))).all()

    return visit(url, read)


def silence(url: str) -> None:
    """Let all servers have been silent for long; who lives says so again before it looks."""

    async def change(session: AsyncSession) -> None:
        seen_at = utc_now() - SILENT - timedelta(seconds=1)
        await session.execute(update(Instance).values(seen_at=seen_at))

    visit(url, change)
