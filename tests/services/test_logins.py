"""Logins: what tokens open, and when they stop."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from joserfc.jwk import OctKey
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import func, select, update

from galley.core.caller import ADMIN_SCOPES, NO_KEY
from galley.core.errors import AuthenticationError, PermissionDeniedError, RateLimitError
from galley.db.session import Database
from galley.db.tables import ApiKey, RefreshToken, Tier, User, utc_now
from galley.db.users import create_user
from galley.services.accounts import Accounts
from galley.services.logins import Logins
from galley.services.passwords import Passwords
from galley.services.tokens import Tokens
from tests.tokens import payload_of, sign

QUICK = PasswordHash([Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])
pytestmark = pytest.mark.anyio

SECRET = bytes(range(32))
ADDRESS, PASSWORD = "ada@example.org", "correct horse battery"
HOME = "192.0.2.1"


class Time:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture(scope="module")
def passwords() -> Iterator[Passwords]:
    with Passwords(QUICK) as passwords:
        yield passwords


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, timedelta(minutes=15))


@pytest.fixture
def accounts(database: Database, tokens: Tokens) -> Accounts:
    return Accounts(database.sessions, tokens=tokens)


@pytest.fixture
def logins(
    database: Database, accounts: Accounts, tokens: Tokens, passwords: Passwords, time: Time
) -> Logins:
    return Logins(
        database.sessions, accounts, tokens, passwords, lifetime=timedelta(days=30), clock=time
    )


@pytest.fixture
async def ada(database: Database, passwords: Passwords) -> str:
    """A user with a password; returns her id."""
    hashed = await passwords.hash(PASSWORD)
    async with database.sessions.begin() as session:
        user = await create_user(session, email=ADDRESS, name="Ada")
        user.password_hash = hashed
    return user.id


async def change(database: Database, user_id: str, **values: object) -> None:
    """Change a user's row, as an admin does."""
    async with database.sessions.begin() as session:
        await session.execute(update(User).where(User.id == user_id).values(**values))


async def test_a_password_opens_with_the_users_own_scopes(
    logins: Logins, accounts: Accounts, ada: str
):
    pair = await logins.by_password("Ada@Example.org", PASSWORD, client=HOME)

    caller = await accounts.authenticate(pair.access_token)
    assert (caller.user_id, caller.key_id, caller.tier) == (ada, NO_KEY, "free")
    assert caller.may("chat")
    assert not caller.may("admin:users")
    assert (pair.expires_in, pair.refresh_expires_in) == (900, 30 * 86400)
    assert accounts.cached(pair.access_token) == caller


async def test_neither_passwords_nor_tokens_are_in_the_database(
    logins: Logins, database: Database, ada: str
):
    pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    async with database.sessions() as session:
        token = (await session.scalars(select(RefreshToken))).one()
        user = await session.get_one(User, ada)
    assert len(token.hash) == 32
    assert pair.refresh_token.encode() not in token.hash
    assert str(user.password_hash).startswith("$argon2id$")


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (ADDRESS, "wrong horse battery"),
        (ADDRESS, PASSWORD.upper()),
        ("nobody@example.org", PASSWORD),
        ("' OR 1=1 --", PASSWORD),
        ("bob@example.org", ""),
    ],
)
async def test_wrong_passwords_and_unknown_addresses_are_refused_in_the_same_words(
    logins: Logins, database: Database, ada: str, email: str, password: str
):
    async with database.sessions.begin() as session:
        await create_user(session, email="bob@example.org", name="no password")

    with pytest.raises(AuthenticationError) as refusal:
        await logins.by_password(email, password, client=HOME)

    assert (refusal.value.code, refusal.value.message) == (
        "wrong_password",
        "Wrong address or password",
    )


async def test_a_key_opens_with_what_the_key_may_do(
    logins: Logins, accounts: Accounts, database: Database, ada: str
):
    made = await accounts.create_key(user_id=ada, name="narrow")
    async with database.sessions.begin() as session:
        (await session.get_one(ApiKey, made.key_id)).scopes = ["usage"]

    pair = await logins.by_key(made.key)

    caller = await accounts.authenticate(pair.access_token)
    assert (caller.key_id, caller.scopes) == (made.key_id, {"usage"})


@pytest.mark.parametrize("what", ["token", "refresh token", "nothing"])
async def test_a_token_is_no_key(logins: Logins, ada: str, what: str):
    pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    wrong = {"token": pair.access_token, "refresh token": pair.refresh_token, "nothing": ""}

    with pytest.raises(AuthenticationError):
        await logins.by_key(wrong[what])


async def test_tier_and_scopes_are_the_databases_whatever_a_token_says(
    logins: Logins, accounts: Accounts, database: Database, ada: str
):
    pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    claims = payload_of(pair.access_token)
    boasting = sign(
        claims | {"tier": "enterprise", "scopes": ["admin:*"]}, OctKey.import_key(SECRET)
    )

    caller = await accounts.authenticate(boasting)

    assert caller.tier == "free"
    assert not any(caller.may(scope) for scope in ADMIN_SCOPES)
    await change(database, ada, tier="premium")
    accounts.forget(ada)
    assert (await accounts.authenticate(pair.access_token)).tier == "premium"


async def refusal_of(accounts: Accounts, token: str) -> str | None:
    """Why `token` opens nothing; None when it does."""
    try:
        await accounts.authenticate(token)
    except AuthenticationError as error:
        return error.code
    return None


@pytest.mark.parametrize("how", ["revoked", "expired", "narrowed"])
async def test_what_ends_or_narrows_a_key_does_it_to_its_tokens(
    logins: Logins, accounts: Accounts, database: Database, ada: str, how: str
):
    made = await accounts.create_key(user_id=ada, name="laptop")
    pair = await logins.by_key(made.key)
    await accounts.authenticate(pair.access_token)
    values = {
        "revoked": {"revoked_at": utc_now()},
        "expired": {"expires_at": utc_now()},
        "narrowed": {"scopes": []},
    }

    async with database.sessions.begin() as session:
        await session.execute(update(ApiKey).values(**values[how]))
    accounts.forget(ada)

    if how == "narrowed":
        assert (await accounts.authenticate(pair.access_token)).scopes == frozenset()
        return
    assert await refusal_of(accounts, pair.access_token) == "invalid_token"
    with pytest.raises(AuthenticationError):
        await logins.refresh(pair.refresh_token)


async def test_a_user_who_is_disabled_is_out_at_once_and_their_tokens_stay_so(
    logins: Logins, accounts: Accounts, database: Database, ada: str
):
    pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    await change(database, ada, status="disabled", tokens_from=utc_now())
    accounts.forget(ada)

    assert await refusal_of(accounts, pair.access_token) == "invalid_token"
    with pytest.raises(AuthenticationError):
        await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    await change(database, ada, status="active")
    assert await refusal_of(accounts, pair.access_token) == "invalid_token"
    with pytest.raises(AuthenticationError):
        await logins.refresh(pair.refresh_token)


async def test_all_tokens_from_before_a_moment_can_be_ended(
    logins: Logins, accounts: Accounts, database: Database, ada: str
):
    before = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    await asyncio.sleep(0.002)  # ids tell milliseconds apart

    await change(database, ada, tokens_from=utc_now())
    after = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    assert await refusal_of(accounts, before.access_token) == "invalid_token"
    with pytest.raises(AuthenticationError):
        await logins.refresh(before.refresh_token)
    assert await accounts.authenticate(after.access_token)
    assert await logins.refresh(after.refresh_token)


async def test_a_refresh_token_gives_new_tokens_for_the_same_login(
    logins: Logins, accounts: Accounts, ada: str
):
    first = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    second = await logins.refresh(first.refresh_token)
    third = await logins.refresh(second.refresh_token)

    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    for pair in (first, second, third):
        assert (await accounts.authenticate(pair.access_token)).user_id == ada
        assert payload_of(pair.access_token)["sid"] == payload_of(first.access_token)["sid"]


async def test_a_refresh_token_that_comes_twice_ends_its_login_and_no_other(
    logins: Logins, accounts: Accounts, ada: str
):
    first = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    other = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    second = await logins.refresh(first.refresh_token)
    await accounts.authenticate(second.access_token)

    with pytest.raises(AuthenticationError) as refusal:
        await logins.refresh(first.refresh_token)

    assert refusal.value.code == "invalid_refresh_token"
    assert await refusal_of(accounts, second.access_token) == "invalid_token"
    with pytest.raises(AuthenticationError):
        await logins.refresh(second.refresh_token)
    assert await accounts.authenticate(other.access_token)
    assert await logins.refresh(other.refresh_token)


async def test_of_many_uses_at_once_at_most_one_succeeds_and_the_login_is_over(
    logins: Logins, accounts: Accounts, ada: str
):
    first = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    found = await asyncio.gather(
        *(logins.refresh(first.refresh_token) for _ in range(6)), return_exceptions=True
    )

    made = [pair for pair in found if not isinstance(pair, BaseException)]
    assert len(made) == 1
    assert all(isinstance(error, AuthenticationError) for error in found if error not in made)
    assert await refusal_of(accounts, made[0].access_token) == "invalid_token"


async def test_a_logout_beside_a_refresh_leaves_nothing_open(
    logins: Logins, accounts: Accounts, ada: str
):
    for _ in range(5):
        pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)

        renewed, _ = await asyncio.gather(
            logins.refresh(pair.refresh_token), logins.end(pair.refresh_token),
            return_exceptions=True,
        )  # fmt: skip

        assert await refusal_of(accounts, pair.access_token) == "invalid_token"
        if not isinstance(renewed, BaseException):
            assert await refusal_of(accounts, renewed.access_token) == "invalid_token"


async def test_a_login_that_is_not_used_ends_after_its_lifetime(
    logins: Logins, time: Time, ada: str
):
    unused = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    used = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    time.ahead = timedelta(days=29)
    used = await logins.refresh(used.refresh_token)
    time.ahead = timedelta(days=31)

    with pytest.raises(AuthenticationError):
        await logins.refresh(unused.refresh_token)

    assert await logins.refresh(used.refresh_token)


async def test_a_logout_ends_one_login_at_once(logins: Logins, accounts: Accounts, ada: str):
    left = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    kept = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    await accounts.authenticate(left.access_token)

    await logins.end(left.refresh_token)
    await logins.end(left.refresh_token)
    await logins.end("gr_unknown")

    assert accounts.cached(left.access_token) is None
    assert await refusal_of(accounts, left.access_token) == "invalid_token"
    assert await accounts.authenticate(kept.access_token)


async def test_a_new_password_ends_every_login_and_no_key(
    logins: Logins, accounts: Accounts, ada: str
):
    made = await accounts.create_key(user_id=ada, name="laptop")
    before = [
        await logins.by_password(ADDRESS, PASSWORD, client=HOME),
        await logins.by_key(made.key),
    ]
    caller = await accounts.authenticate(before[0].access_token)

    await logins.change_password(caller, old=PASSWORD, new="a new one, longer", client=HOME)

    for pair in before:
        assert await refusal_of(accounts, pair.access_token) == "invalid_token"
        with pytest.raises(AuthenticationError):
            await logins.refresh(pair.refresh_token)
    with pytest.raises(AuthenticationError):
        await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    after = await logins.by_password(ADDRESS, "a new one, longer", client=HOME)
    assert await accounts.authenticate(after.access_token)
    assert await accounts.authenticate(made.key)


@pytest.mark.parametrize("old", [None, "", "wrong"])
async def test_a_password_is_not_changed_without_the_old_one(
    logins: Logins, accounts: Accounts, ada: str, old: str | None
):
    made = await accounts.create_key(user_id=ada, name="laptop")
    caller = await accounts.authenticate(made.key)

    with pytest.raises(AuthenticationError):
        await logins.change_password(caller, old=old, new="a new one, longer", client=HOME)

    assert await logins.by_password(ADDRESS, PASSWORD, client=HOME)


@pytest.mark.parametrize(
    "restriction",
    [
        {"scopes": ["chat"]},
        {"limits": {"cost_per_day": 1}},
        {"expires_at": utc_now() + timedelta(days=1)},
    ],
)
async def test_a_first_password_takes_a_key_that_may_all_that_its_owner_may(
    logins: Logins, accounts: Accounts, database: Database, ada: str, restriction: dict[str, object]
):
    await change(database, ada, password_hash=None)
    narrow = await accounts.create_key(user_id=ada, name="narrow")
    whole = await accounts.create_key(user_id=ada, name="whole")
    async with database.sessions.begin() as session:
        await session.execute(
            update(ApiKey).where(ApiKey.id == narrow.key_id).values(**restriction)
        )

    for key in (narrow.key, (await logins.by_key(narrow.key)).access_token):
        with pytest.raises(PermissionDeniedError):
            await logins.change_password(
                await accounts.authenticate(key), old=None, new=PASSWORD, client=HOME
            )
    await logins.change_password(
        await accounts.authenticate(whole.key), old=None, new=PASSWORD, client=HOME
    )

    assert await logins.by_password(ADDRESS, PASSWORD, client=HOME)


async def test_after_five_failures_an_address_waits_even_with_the_right_password(
    logins: Logins, time: Time, ada: str
):
    for number in range(5):
        with pytest.raises(AuthenticationError):
            await logins.by_password(ADDRESS, "wrong", client=f"192.0.2.{number}")

    with pytest.raises(RateLimitError) as refusal:
        await logins.by_password(ADDRESS.upper(), PASSWORD, client="192.0.2.99")

    assert refusal.value.code == "too_many_logins"
    assert 290 < (refusal.value.retry_after or 0) <= 300
    time.ahead = timedelta(seconds=301)
    assert await logins.by_password(ADDRESS, PASSWORD, client=HOME)


async def test_guesses_that_come_all_at_once_are_no_more_than_five(logins: Logins, ada: str):
    found = await asyncio.gather(
        *(logins.by_password(ADDRESS, f"guess {n}", client=f"192.0.2.{n}") for n in range(20)),
        return_exceptions=True,
    )

    assert sum(isinstance(error, AuthenticationError) for error in found) == 5
    assert sum(isinstance(error, RateLimitError) for error in found) == 15


async def test_a_client_that_tries_many_addresses_waits(logins: Logins, ada: str):
    for number in range(20):
        with pytest.raises(AuthenticationError):
            await logins.by_password(f"user{number}@example.org", "wrong", client=HOME)

    with pytest.raises(RateLimitError):
        await logins.by_password(ADDRESS, PASSWORD, client=HOME)

    assert await logins.by_password(ADDRESS, PASSWORD, client="192.0.2.2")


async def test_success_does_not_count_and_forgives(logins: Logins, ada: str):
    for _ in range(6):
        with pytest.raises(AuthenticationError):
            await logins.by_password(ADDRESS, "wrong", client=HOME)
        await logins.by_password(ADDRESS, PASSWORD, client=HOME)


async def test_a_user_has_only_so_many_tokens(
    logins: Logins, database: Database, ada: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("galley.db.refresh_tokens.MOST_KEPT", 3)
    made = await Accounts(database.sessions).create_key(user_id=ada, name="loop")

    pairs = [await logins.by_key(made.key) for _ in range(5)]

    async with database.sessions() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 3
    assert await logins.refresh(pairs[-1].refresh_token)
    with pytest.raises(AuthenticationError):
        await logins.refresh(pairs[0].refresh_token)


async def test_a_user_of_a_tier_without_scopes_may_do_nothing(
    logins: Logins, accounts: Accounts, database: Database, ada: str
):
    pair = await logins.by_password(ADDRESS, PASSWORD, client=HOME)
    async with database.sessions.begin() as session:
        (await session.get_one(Tier, "free")).scopes = []

    assert (await accounts.authenticate(pair.access_token)).scopes == frozenset()
