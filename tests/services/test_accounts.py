import asyncio
from datetime import timedelta

import pytest
from pydantic import SecretStr

from galley.core.caller import ADMIN_SCOPES, SCOPES, Caller
from galley.core.errors import AuthenticationError
from galley.core.security import make_key
from galley.core.settings import SettingsError
from galley.db.engine import make_engine, parse_url
from galley.db.session import Database, Sessions
from galley.db.tables import ApiKey, utc_now
from galley.db.users import create_user, first_admin
from galley.services.accounts import CACHE_SECONDS, Accounts
from galley.services.keys import KeyService
from tests.records import count_users

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database.sessions, clock=clock)


@pytest.fixture
def keys(database: Database, accounts: Accounts) -> KeyService:
    return KeyService(database.sessions, accounts)


async def make_user(database: Database, email: str = "alice@example.org") -> str:
    async with database.sessions.begin() as session:
        return (await create_user(session, email=email, name="A")).id


async def test_the_first_start_makes_an_admin_and_one_key_and_tells_it_once(
    accounts: Accounts, database: Database
):
    key, again = await accounts.bootstrap(None), await accounts.bootstrap(None)

    assert key is not None
    assert again is None
    caller = await accounts.authenticate(key)
    async with database.sessions() as session:
        admin = await first_admin(session)
        assert await count_users(session) == 1
    assert admin is not None
    assert (admin.email, admin.id) == ("admin@localhost", caller.user_id)


async def test_servers_that_start_at_the_same_time_make_one_admin_with_one_key(database: Database):
    configured = SecretStr(make_key())
    starting = [Accounts(database.sessions).bootstrap(configured) for _ in range(4)]

    await asyncio.gather(*starting)

    async with database.sessions() as session:
        assert await count_users(session) == 1


async def test_a_configured_key_opens_from_the_first_start_and_is_not_told(accounts: Accounts):
    configured = make_key()

    told = await accounts.bootstrap(SecretStr(configured))

    assert told is None
    assert await accounts.authenticate(configured)


async def test_a_key_configured_later_is_added_to_the_admin(accounts: Accounts):
    first = await accounts.bootstrap(None)
    configured = make_key()

    told = [await accounts.bootstrap(SecretStr(configured)) for _ in range(2)]

    assert told == [None, None]
    assert first is not None
    admin, same = await accounts.authenticate(first), await accounts.authenticate(configured)
    assert admin.user_id == same.user_id
    assert admin.key_id != same.key_id


@pytest.mark.parametrize("key", ["sk-something", "gk_short", "gk_" + "0" * 38, ""])
async def test_a_configured_key_that_is_malformed_is_refused(accounts: Accounts, key: str):
    with pytest.raises(SettingsError, match="GALLEY_BOOTSTRAP_KEY") as refused:
        await accounts.bootstrap(SecretStr(key))

    assert key == "" or key not in str(refused.value)


async def test_a_malformed_key_is_refused_without_asking_the_database():
    engine = make_engine(parse_url("postgresql://nobody@127.0.0.1:1/nowhere"))
    accounts = Accounts(Sessions(engine))

    with pytest.raises(AuthenticationError) as refused:
        await accounts.authenticate("gk_" + "0" * 38)
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):  # which a well-formed one does ask
        await accounts.authenticate(make_key())

    assert (refused.value.message, refused.value.code) == ("Invalid API key", "invalid_api_key")
    await engine.dispose()


async def test_an_unknown_key_is_refused_until_it_exists(accounts: Accounts, database: Database):
    key = make_key()
    with pytest.raises(AuthenticationError, match="Invalid API key"):
        await accounts.authenticate(key)

    await accounts.bootstrap(SecretStr(key))

    assert await accounts.authenticate(key)


async def test_a_key_seen_once_is_recognised_at_once_for_a_minute(
    accounts: Accounts, database: Database, clock: Clock
):
    made = await accounts.create_key(user_id=await make_user(database), name="laptop")
    assert accounts.cached(made.key) is None

    caller = await accounts.authenticate(made.key)

    assert caller.key_id == made.key_id
    assert accounts.cached(made.key) == caller
    clock.now += CACHE_SECONDS
    assert accounts.cached(made.key) is None
    assert await accounts.authenticate(made.key) == caller


async def test_a_revoked_key_opens_nothing_from_that_moment_on(
    accounts: Accounts, keys: KeyService, database: Database
):
    user_id = await make_user(database)
    revoked, kept = [await accounts.create_key(user_id=user_id, name="laptop") for _ in range(2)]
    await accounts.authenticate(revoked.key)
    caller = await accounts.authenticate(kept.key)

    await keys.revoke(caller, user_id, revoked.key_id)

    assert accounts.cached(revoked.key) is None
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(revoked.key)
    assert (await accounts.authenticate(kept.key)).key_id == kept.key_id


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(
    accounts: Accounts, keys: KeyService, database: Database
):
    user_id = await make_user(database)
    owner = Caller(user_id=user_id)
    made = [await accounts.create_key(user_id=user_id, name="laptop") for _ in range(20)]

    for key in made:
        await asyncio.gather(
            *(accounts.authenticate(key.key) for _ in range(5)),
            keys.revoke(owner, user_id, key.key_id),
            return_exceptions=True,
        )

    assert [accounts.cached(key.key) for key in made] == [None] * 20


async def test_no_more_callers_are_remembered_than_there_is_room_for(
    accounts: Accounts, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("galley.services.accounts.CACHE_SIZE", 3)
    user_id = await make_user(database)
    made = [await accounts.create_key(user_id=user_id, name="laptop") for _ in range(5)]

    for key in made:
        await accounts.authenticate(key.key)

    assert [accounts.cached(key.key) is not None for key in made] == [False] * 2 + [True] * 3


async def test_a_caller_has_the_scopes_and_limits_of_the_tier_less_what_the_key_leaves_out(
    accounts: Accounts, database: Database
):
    async with database.sessions.begin() as session:
        user = await create_user(session, email="bob@example.org", name="B")
        user.limits = {"images_per_minute": 7, "requests_per_day": None}
    made = await accounts.create_key(user_id=user.id, name="narrow")
    async with database.sessions.begin() as session:
        key = await session.get_one(ApiKey, made.key_id)
        key.scopes, key.limits = ["chat", "admin:users"], {"concurrency": 1}

    caller = await accounts.authenticate(made.key)

    assert caller.tier == "free"
    assert caller.scopes == {"chat"}
    limits = {
        (r.counter.subject, r.counter.metric, r.counter.period): r.limit for r in caller.rules
    }
    mine = f"user:{user.id}"
    assert limits[mine, "images", "minute"] == 7  # the user's own, in place of the tier's 5
    assert limits[mine, "requests", "minute"] == 60
    assert (mine, "requests", "day") not in limits
    assert limits[f"{mine}/key:{made.key_id}", "concurrency", "now"] == 1


async def test_the_first_admin_may_do_everything_without_limits(accounts: Accounts):
    key = await accounts.bootstrap(None)

    caller = await accounts.authenticate(str(key))

    assert caller.rules == ()
    assert all(caller.may(scope) for scope in (*SCOPES, *ADMIN_SCOPES))


async def test_a_key_that_expires_within_the_minute_is_forgotten_in_time(
    accounts: Accounts, database: Database, clock: Clock
):
    made = await accounts.create_key(user_id=await make_user(database), name="short")
    async with database.sessions.begin() as session:
        key = await session.get_one(ApiKey, made.key_id)
        key.expires_at = utc_now() + timedelta(seconds=20)
    await accounts.authenticate(made.key)

    clock.now += 21

    assert accounts.cached(made.key) is None
