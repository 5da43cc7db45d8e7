"""Users who come with the tokens of another issuer."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from galley.core.caller import NO_KEY
from galley.core.errors import AuthenticationError
from galley.core.issuers import IssuerSettings
from galley.db.session import Database
from galley.db.tables import User, utc_now
from galley.db.users import create_user
from galley.services.accounts import Accounts
from galley.services.guests import Guests
from galley.services.issuers import Issuers
from tests.loopback import Script, http, scripted_server
from tests.tokens import RSA, claims, key_set, sign

pytestmark = pytest.mark.anyio

ISSUER = "https://login.example.org/"


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted_server(http(key_set(RSA))) as script:
        yield script


def token(**changes: Any) -> str:
    theirs = {"iss": ISSUER, "aud": "galley-server", "sub": "u1", "jti": None, "sid": None}
    theirs |= {"email": "Ada@example.org", "email_verified": True, "name": "Ada"}
    return sign(claims(**(theirs | changes)), RSA, "RS256", kid="first")


def accounts_with(database: Database, server: Script, **changes: Any) -> Accounts:
    given: dict[str, Any] = {
        "issuer": ISSUER, "audience": "galley-server", "jwks_url": server.base_url,
        "tier_claim": "plan", "tiers": {"gold": "enterprise", "odd": "no such tier"},
    }  # fmt: skip
    issuers = Issuers({"example": IssuerSettings(**(given | changes))})
    return Accounts(database.sessions, guests=Guests(database.sessions, issuers))


async def users(database: Database) -> list[User]:
    async with database.sessions() as session:
        return list(await session.scalars(select(User).order_by(User.id)))


async def test_somebody_new_becomes_a_user_once(database: Database, server: Script):
    accounts = accounts_with(database, server, create_users=True)

    found = await asyncio.gather(*(accounts.authenticate(token(plan="gold")) for _ in range(4)))

    (user,) = await users(database)
    assert (user.email, user.name, user.tier) == ("ada@example.org", "Ada", "enterprise")
    assert not user.is_admin
    assert user.password_hash is None
    assert {(c.user_id, c.key_id, c.tier) for c in found} == {(user.id, NO_KEY, "enterprise")}


async def test_somebody_new_is_refused_where_nobody_may_join(database: Database, server: Script):
    accounts = accounts_with(database, server)

    with pytest.raises(AuthenticationError) as refusal:
        await accounts.authenticate(token())

    assert refusal.value.code == "unknown_user"
    assert await users(database) == []


async def test_a_user_of_that_address_comes_in_and_keeps_what_is_theirs(
    database: Database, server: Script
):
    good = token()
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="A", tier="premium")
        user.tokens_from = utc_now().replace(year=2020)
    accounts = accounts_with(database, server, tier_claim=None)

    caller = await accounts.authenticate(good)

    assert (caller.user_id, caller.tier) == (user.id, "premium")
    assert accounts.cached(good) == caller


async def test_the_tier_follows_the_issuer(database: Database, server: Script):
    accounts = accounts_with(database, server, create_users=True)

    tiers = [
        (await accounts.authenticate(token(plan=plan, jti=str(number)))).tier
        for number, plan in enumerate(["gold", None, "gold", "copper"])
    ]

    assert tiers == ["enterprise", "free", "enterprise", "free"]
    assert [user.tier for user in await users(database)] == ["free"]


async def test_keys_follow_at_once_when_the_issuer_moves_their_owner(
    database: Database, server: Script
):
    accounts = accounts_with(database, server, create_users=True)
    owner = await accounts.authenticate(token(plan="gold"))
    made = await accounts.create_key(user_id=owner.user_id, name="theirs")
    before = await accounts.authenticate(made.key)

    await accounts.authenticate(token(plan="copper"))

    assert (before.tier, (await accounts.authenticate(made.key)).tier) == ("enterprise", "free")


async def test_a_mapping_to_a_tier_that_is_not_there_changes_nothing(
    database: Database, server: Script
):
    accounts = accounts_with(database, server, create_users=True)
    await accounts.authenticate(token(plan="gold"))

    assert (await accounts.authenticate(token(plan="odd"))).tier == "enterprise"


async def test_claims_make_nobody_an_admin(database: Database, server: Script):
    accounts = accounts_with(database, server, create_users=True)

    caller = await accounts.authenticate(
        token(is_admin=True, scopes=["admin:*"], tier="enterprise", roles=["admin"])
    )

    assert caller.tier == "free"
    assert not caller.may("admin:users")


@pytest.mark.parametrize(
    "values", [{"status": "disabled"}, {"tokens_from": utc_now().replace(year=2100)}]
)
async def test_a_user_who_is_shut_out_here_stays_out(
    database: Database, server: Script, values: dict[str, Any]
):
    accounts = accounts_with(database, server, create_users=True)
    caller = await accounts.authenticate(token())
    async with database.sessions.begin() as session:
        await session.execute(update(User).values(**values))
    accounts.forget(caller.user_id)

    with pytest.raises(AuthenticationError):
        await accounts.authenticate(token())


async def test_where_no_issuer_is_set_foreign_tokens_open_nothing(database: Database):
    accounts = Accounts(database.sessions, guests=Guests(database.sessions, Issuers({})))

    with pytest.raises(AuthenticationError) as refusal:
        await accounts.authenticate(token())

    assert refusal.value.code == "invalid_token"
