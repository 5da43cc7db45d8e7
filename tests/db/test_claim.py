"""Who may serve from one PostgreSQL: one server alone, or several that share their limits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from galley.core.settings import SettingsError
from galley.db.claim import Claim
from galley.db.engine import make_engine, parse_url

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def claim(url: str, *, shares: bool) -> AsyncGenerator[Claim]:
    engine = make_engine(parse_url(url))
    made = Claim(engine, shares=shares)
    try:
        yield made
    finally:
        await made.aclose()
        await engine.dispose()


async def cut_off(url: str) -> None:
    """Let the database lose everybody else's connection, as when it is restarted."""
    engine = make_engine(parse_url(url))
    async with engine.connect() as connection:
        others = "pid != pg_backend_pid() AND datname = current_database()"
        query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"  # noqa: S608
        await connection.execute(text(query))
    await engine.dispose()


@pytest.mark.parametrize(
    ("first_shares", "second_shares", "told"),
    [
        (False, False, "give all of them the same GALLEY_REDIS_URL"),
        (True, False, "give all of them the same GALLEY_REDIS_URL"),
        (False, True, "with this one's GALLEY_REDIS_URL"),
    ],
)
async def test_a_server_that_counts_on_its_own_is_alone(
    postgresql_url: str, first_shares: bool, second_shares: bool, told: str
) -> None:
    async with (
        claim(postgresql_url, shares=first_shares) as first,
        claim(postgresql_url, shares=second_shares) as second,
    ):
        await first.take()

        with pytest.raises(SettingsError, match="Another server is using postgresql://") as refused:
            await second.take()

        await first.aclose()
        await second.take()

    assert told in str(refused.value)


async def test_servers_that_share_limits_let_each_other_in(postgresql_url: str) -> None:
    async with (
        claim(postgresql_url, shares=True) as first,
        claim(postgresql_url, shares=True) as second,
    ):
        await first.take()
        await second.take()

        assert (first.problem, second.problem) == (None, None)


async def test_the_reason_holds_no_password(postgresql_url: str) -> None:
    with_password = parse_url(postgresql_url).set(password="very-secret")
    url = with_password.render_as_string(hide_password=False)
    async with claim(url, shares=False) as first, claim(url, shares=False) as second:
        await first.take()

        with pytest.raises(SettingsError) as refused:
            await second.take()

    assert "very-secret" not in str(refused.value)


async def test_a_claim_that_was_lost_with_its_connection_is_taken_again(
    postgresql_url: str,
) -> None:
    async with (
        claim(postgresql_url, shares=False) as first,
        claim(postgresql_url, shares=False) as late,
    ):
        await first.take()
        await cut_off(postgresql_url)

        await first.renew()

        assert first.problem is None
        with pytest.raises(SettingsError):
            await late.take()


async def test_who_comes_back_too_late_says_so_until_the_other_is_gone(
    postgresql_url: str,
) -> None:
    async with (
        claim(postgresql_url, shares=False) as first,
        claim(postgresql_url, shares=False) as quicker,
    ):
        await first.take()
        await cut_off(postgresql_url)
        await quicker.take()

        await first.renew()
        problem = first.problem
        await quicker.aclose()
        await first.renew()

    assert problem == "another server uses it"
    assert first.problem is None


async def test_a_claim_is_kept_although_all_connections_were_in_use(postgresql_url: str) -> None:
    engine = create_async_engine(
        parse_url(postgresql_url), pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    kept = Claim(engine, shares=False)
    busy = await engine.connect()
    keeping = asyncio.create_task(kept.keep(every_s=0.01))
    await asyncio.sleep(0.1)  # some attempts fail
    await busy.close()

    async with claim(postgresql_url, shares=False) as late, asyncio.timeout(10):
        while await _takes(late):  # noqa: ASYNC110 - nobody rings a bell for a lock
            await asyncio.sleep(0.02)

    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await kept.aclose()
    await engine.dispose()


async def _takes(late: Claim) -> bool:
    """Tell whether nobody has a claim, and leave it so."""
    try:
        await late.take()
    except SettingsError:
        return False
    await late.aclose()
    return True
