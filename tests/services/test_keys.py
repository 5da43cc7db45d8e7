import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from galley.core.caller import Caller
from galley.core.errors import AuthenticationError, ConflictError, NotFoundError
from galley.db.ledger import Ledger
from galley.db.session import Database
from galley.db.users import create_user
from galley.schemas.keys import KeyCreate
from galley.services import keys
from galley.services.accounts import Accounts
from galley.services.keys import KeyService
from tests.records import finished, new_record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CI = KeyCreate(name="ci", expires_in_days=10)


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database.sessions)


@pytest.fixture
def service(database: Database, accounts: Accounts) -> KeyService:
    return KeyService(database.sessions, accounts)


@pytest.fixture
async def ada(database: Database, accounts: Accounts) -> Caller:
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="Ada")
    made = await accounts.create_key(user_id=user.id, name="first")
    return await accounts.authenticate(made.key)


async def test_a_key_in_its_overlap_opens_until_its_end_and_no_longer(
    service: KeyService, accounts: Accounts, ada: Caller
) -> None:
    now = datetime.now(UTC)
    old = await service.create(ada, ada.user_id, KeyCreate(name="ci"), now=now)

    new = await service.rotate(ada, old.id, timedelta(seconds=0.3), now=now)

    assert (await accounts.authenticate(old.key)).key_id == old.id
    await asyncio.sleep(0.35)
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(old.key)
    assert (await accounts.authenticate(new.key)).key_id == new.id


async def test_a_renewed_key_lasts_as_long_as_the_old_one_did(
    service: KeyService, ada: Caller
) -> None:
    old = await service.create(ada, ada.user_id, CI, now=NOW)
    later = NOW + timedelta(days=7)

    new = await service.rotate(ada, old.id, timedelta(hours=1), now=later)

    assert new.expires_at == later + timedelta(days=10)
    assert (await service.find(ada.user_id, old.id)).expires_at == later + timedelta(hours=1)


async def test_an_overlap_never_makes_a_key_last_longer(service: KeyService, ada: Caller) -> None:
    old = await service.create(ada, ada.user_id, CI, now=NOW)

    await service.rotate(ada, old.id, timedelta(days=7), now=NOW + timedelta(days=9))

    assert (await service.find(ada.user_id, old.id)).expires_at == old.expires_at


@pytest.mark.parametrize("late", [timedelta(), timedelta(days=1)])
async def test_a_key_that_has_ended_is_neither_renewed_nor_revoked(
    late: timedelta, service: KeyService, ada: Caller
) -> None:
    old = await service.create(ada, ada.user_id, CI, now=NOW)
    now = NOW + timedelta(days=10) + late

    with pytest.raises(NotFoundError):
        await service.rotate(ada, old.id, timedelta(), now=now)
    with pytest.raises(NotFoundError):
        await service.revoke(ada, ada.user_id, old.id, now=now)


async def test_keys_made_at_the_same_time_are_no_more_than_there_may_be(
    service: KeyService, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MOST_OPEN", 5)

    made = await asyncio.gather(
        *(service.create(ada, ada.user_id, KeyCreate(name="x")) for _ in range(12)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, ConflictError) for answer in made) == 8
    assert len((await service.list(ada.user_id)).data) == 5


async def test_a_key_that_has_ended_makes_room(
    service: KeyService, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MOST_OPEN", 2)
    await service.create(ada, ada.user_id, CI, now=NOW)
    with pytest.raises(ConflictError):
        await service.create(ada, ada.user_id, CI, now=NOW + timedelta(days=9))

    assert await service.create(ada, ada.user_id, CI, now=NOW + timedelta(days=10))


async def test_the_list_says_in_which_hour_a_key_was_last_used(
    service: KeyService, database: Database, ada: Caller
) -> None:
    unused = await service.create(ada, ada.user_id, CI)
    ledger = Ledger(database)
    for hour in (9, 14, 11):
        at = NOW.replace(hour=hour, minute=34)
        record = new_record(user_id=ada.user_id, key_id=ada.key_id, created_at=at)
        await ledger.settle(finished(record))
    await ledger.aclose()

    used = {key.id: key.last_used_at for key in (await service.list(ada.user_id)).data}

    assert used == {ada.key_id: NOW.replace(hour=14), unused.id: None}


async def test_a_scope_that_the_owner_gains_later_is_the_keys_only_where_it_was_not_narrowed(
    service: KeyService, database: Database, accounts: Accounts, ada: Caller
) -> None:
    whole = await service.create(ada, ada.user_id, KeyCreate(name="whole"))
    narrow = await service.create(ada, ada.user_id, KeyCreate(name="narrow", scopes=["chat"]))
    async with database.sessions.begin() as session:
        user = await keys.find_known(session, ada.user_id)
        user.is_admin = True

    callers = [await accounts.authenticate(made.key) for made in (whole, narrow)]

    assert [caller.may("admin:users") for caller in callers] == [True, False]
