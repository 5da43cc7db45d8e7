"""The start waits for what the server cannot do without, and gives up with a reason."""

import asyncio
import time
from pathlib import Path

import pytest

from galley.core.settings import SettingsError
from galley.db.session import NotThereYetError, open_database
from galley.runtime.waiting import until_redis, until_there
from tests.redis_server import RedisServer
from tests.serving import make_settings

pytestmark = pytest.mark.anyio

NOBODY = "127.0.0.1:1"  # no program listens there


async def test_what_comes_a_little_late_is_waited_for_with_one_line_per_attempt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    attempts: list[int] = []

    async def third_time() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise NotThereYetError("nobody listens")
        return "there"

    found = await until_there("the database", third_time, 30, pause_s=0.001)

    assert (found, len(attempts)) == ("there", 3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "waiting_for" in line]
    assert len(lines) == 2
    assert "nobody listens" in lines[0]


async def test_redis_that_starts_after_the_server_is_waited_for(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    own_redis.stop()
    settings = make_settings(tmp_path, tmp_path, redis_url=own_redis.url)
    waiting = asyncio.create_task(until_redis(settings))
    await asyncio.sleep(0.1)
    still_waiting = not waiting.done()

    own_redis.start()

    await waiting
    assert still_waiting


@pytest.mark.parametrize("timeout_s", [0, 0.05])
async def test_redis_that_does_not_come_ends_the_start_with_the_reason(
    tmp_path: Path, timeout_s: float
) -> None:
    url = f"redis://:very-secret@{NOBODY}/0"
    settings = make_settings(tmp_path, tmp_path, redis_url=url, startup_timeout=timeout_s)
    began = time.monotonic()

    with pytest.raises(SettingsError) as failure:
        await until_redis(settings)

    assert time.monotonic() - began < 5
    assert "Redis (GALLEY_REDIS_URL) does not answer" in str(failure.value)
    assert "GALLEY_STARTUP_TIMEOUT" in str(failure.value)
    assert "very-secret" not in str(failure.value)


async def test_redis_that_refuses_us_is_not_waited_for(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    async with own_redis.client() as client:
        await client.execute_command("CONFIG", "SET", "requirepass", "another")
    settings = make_settings(tmp_path, tmp_path, redis_url=own_redis.url, startup_timeout=1)

    with pytest.raises(SettingsError, match="GALLEY_REDIS_URL: Redis refuses it"):
        await until_redis(settings)


@pytest.mark.parametrize("server", [NOBODY, "no-such-host.invalid:5432"])
async def test_postgresql_that_does_not_answer_may_still_come(server: str) -> None:
    with pytest.raises(NotThereYetError, match="cannot be opened"):
        async with open_database(f"postgresql://me@{server}/galley"):
            pass


async def test_a_database_that_is_not_there_will_not_come(postgresql_url: str) -> None:
    with pytest.raises(SettingsError, match="does not exist") as failure:
        async with open_database(f"{postgresql_url}".replace("/test_", "/nobodys_")):
            pass

    assert not isinstance(failure.value, NotThereYetError)
