import asyncio
from collections.abc import Iterator

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, ConflictError
from galley.db.session import Database
from galley.db.users import find_user
from galley.schemas.admin import TierUpdate, UserCreate, UserReply, UserUpdate
from galley.services.accounts import Accounts
from galley.services.audit_log import AuditLog, note
from galley.services.passwords import Passwords
from galley.services.people import People
from galley.services.tiers import Tiers

QUICK = PasswordHash([Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])
pytestmark = pytest.mark.anyio


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database.sessions)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    with Passwords(QUICK) as passwords:
        yield passwords


@pytest.fixture
def people(database: Database, accounts: Accounts, passwords: Passwords) -> People:
    return People(database.sessions, accounts, passwords)


@pytest.fixture
async def admin(accounts: Accounts) -> Caller:
    return await accounts.authenticate(str(await accounts.bootstrap(None)))


def as_caller(user: UserReply, like: Caller) -> Caller:
    return Caller(user_id=user.id, scopes=like.scopes)


async def test_two_admins_who_demote_each_other_leave_one(people: People, admin: Caller) -> None:
    for round in range(5):
        other = await people.create(
            admin, UserCreate(email=f"{round}@example.org", name="O", is_admin=True)
        )
        demoted = UserUpdate(is_admin=False)

        answers = await asyncio.gather(
            people.update(admin, other.id, demoted),
            people.update(as_caller(other, admin), admin.user_id, demoted),
            return_exceptions=True,
        )

        assert [isinstance(answer, ConflictError) for answer in answers].count(True) == 1
        left = [user for user in (await people.list()).data if user.is_admin]
        assert len(left) == 1
        if left[0].id != admin.user_id:
            await people.update(as_caller(other, admin), admin.user_id, UserUpdate(is_admin=True))
            await people.update(admin, other.id, demoted)


async def test_an_address_asked_for_twice_at_once_is_given_once(
    people: People, admin: Caller
) -> None:
    request = UserCreate(email="ada@example.org", name="Ada")

    answers = await asyncio.gather(
        *(people.create(admin, request) for _ in range(4)), return_exceptions=True
    )

    assert [isinstance(answer, UserReply) for answer in answers].count(True) == 1
    assert [isinstance(answer, ConflictError) for answer in answers].count(True) == 3


async def test_a_password_is_kept_as_argon2id_and_opens(
    people: People, admin: Caller, database: Database, passwords: Passwords
) -> None:
    password = "correct horse battery staple"

    made = await people.create(
        admin, UserCreate(email="ada@example.org", name="Ada", password=password)
    )

    async with database.sessions() as session:
        user = await find_user(session, made.id)
    assert user is not None
    assert (user.password_hash or "").startswith("$argon2id$")
    assert await passwords.verify(password, user.password_hash)


async def test_disabling_ends_the_tokens_that_were_given_before(
    people: People, admin: Caller, database: Database
) -> None:
    made = await people.create(admin, UserCreate(email="ada@example.org", name="Ada"))
    async with database.sessions() as session:
        before = await find_user(session, made.id)

    await people.disable(admin, made.id)

    async with database.sessions() as session:
        after = await find_user(session, made.id)
    assert before is not None
    assert after is not None
    assert after.tokens_from > before.tokens_from


async def test_a_tier_is_either_deleted_or_given_to_a_user_never_both(
    people: People, database: Database, accounts: Accounts, admin: Caller
) -> None:
    tiers = Tiers(database.sessions, accounts)
    for round in range(5):
        await tiers.put(admin, "trial", TierUpdate())
        request = UserCreate(email=f"{round}@example.org", name="A", tier="trial")

        deleted, made = await asyncio.gather(
            tiers.delete(admin, "trial"), people.create(admin, request), return_exceptions=True
        )

        if isinstance(made, UserReply):
            assert isinstance(deleted, ConflictError)
            await people.update(admin, made.id, UserUpdate(tier="free"))
        else:
            assert isinstance(made, BadRequestError)


async def test_a_tier_made_twice_at_once_is_there_once(
    database: Database, accounts: Accounts, admin: Caller
) -> None:
    tiers = Tiers(database.sessions, accounts)

    answers = await asyncio.gather(
        *(tiers.put(admin, "trial", TierUpdate()) for _ in range(4)), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, ConflictError) for answer in refused)
    assert len(refused) < len(answers)
    assert "trial" in [tier.name for tier in (await tiers.list()).data]


async def test_an_action_that_fails_leaves_no_note(database: Database, admin: Caller) -> None:
    async def fail() -> None:
        async with database.sessions.begin() as session:
            await note(session, admin, "user.update", "user:1", {"a": 1}, {"a": 2})
            raise ConflictError("Something else went wrong.")

    with pytest.raises(ConflictError):
        await fail()

    assert (await AuditLog(database.sessions).list()).data == []


async def test_a_note_says_who_did_it_and_with_which_key(database: Database, admin: Caller) -> None:
    async with database.sessions.begin() as session:
        await note(session, admin, "price.set", "price:small", None, {"prompt": 5})

    (event,) = (await AuditLog(database.sessions).list()).data

    assert (event.user_id, event.key_id) == (admin.user_id, admin.key_id)
    assert (event.action, event.object) == ("price.set", "price:small")
    assert (event.before, event.after) == (None, {"prompt": 5})
