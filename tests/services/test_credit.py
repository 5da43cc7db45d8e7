"""Credit: who has paid ahead spends what they have paid, and not a micro-dollar more."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime

import pytest

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, RateLimitError
from galley.core.limits import MOST, Counter
from galley.core.metrics import Metrics
from galley.db.ledger import Ledger
from galley.db.session import Database
from galley.db.spent import spent
from galley.db.tables import new_id
from galley.db.users import create_user
from galley.services.accounts import Accounts
from galley.services.audit_log import AuditLog
from galley.services.charge import Arrival
from galley.services.invoices import Invoices
from galley.services.metering import Meter
from galley.services.passwords import Passwords
from galley.services.people import People
from galley.services.pricing import Pricing
from galley.stores.limiter_memory import MemoryLimiter
from tests.records import finished, id_at, new_record

pytestmark = pytest.mark.anyio

TEXT = 1_000
"""What a text costs here, in micro-dollars."""


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database.sessions)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    with Passwords() as passwords:
        yield passwords


@pytest.fixture
def people(database: Database, accounts: Accounts, passwords: Passwords) -> People:
    return People(database.sessions, accounts, passwords)


@pytest.fixture
async def admin(accounts: Accounts) -> Caller:
    return await accounts.authenticate(str(await accounts.bootstrap(None)))


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()


@pytest.fixture
async def pricing(database: Database, admin: Caller) -> Pricing:
    pricing = Pricing(database.sessions)
    await pricing.set(admin, "small", prompt=0, cached=0, completion=0, unit=TEXT, second=0)
    return pricing


@pytest.fixture
async def key(database: Database, accounts: Accounts) -> str:
    """The key of somebody whom no tier limits."""
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="Ada", tier="enterprise")
    return (await accounts.create_key(user_id=user.id, name="first")).key


@pytest.fixture
async def ada(accounts: Accounts, key: str) -> str:
    """Their id."""
    return (await accounts.authenticate(key)).user_id


def start(database: Database, ledger: Ledger, pricing: Pricing) -> Meter:
    """The meter of a server that has just started."""

    async def spent_since(counter: Counter, since: datetime) -> int:
        async with database.sessions() as session:
            return await spent(session, counter, since)

    limiter = MemoryLimiter(spent_since)
    return Meter(ledger, limiter, pricing, Metrics(), instance_id=new_id(), longest_s=60)


@pytest.fixture
def meter(database: Database, ledger: Ledger, pricing: Pricing) -> Meter:
    return start(database, ledger, pricing)


async def embed(meter: Meter, caller: Caller, *, at_most: int = 1, texts: int = 1) -> None:
    """A request that may take `at_most` texts, and takes `texts`."""
    async with meter.hold(Arrival(new_id(), None), caller, "embeddings") as charge:
        await meter.admit(charge, "small", texts=at_most)
        await asyncio.sleep(0)
        charge.record.units, charge.record.served_model = texts, "small"
        await meter.settle(charge)


async def test_the_first_credit_comes_on_top_of_what_was_spent_before(
    people: People, admin: Caller, ada: str, ledger: Ledger
) -> None:
    await ledger.settle(finished(new_record(user_id=ada), cost=300))

    first = await people.top_up(admin, ada, 1_000)
    second = await people.top_up(admin, ada, 500)

    assert (first.credit, first.credit_left) == (1_300, 1_000)
    assert (second.credit, second.credit_left) == (1_800, 1_500)


async def test_who_never_had_credit_has_none_and_is_billed_afterwards(
    people: People, accounts: Accounts, key: str, ada: str
) -> None:
    user = await people.find(ada)

    assert (user.credit, user.credit_left) == (None, None)
    assert (await accounts.authenticate(key)).rules == ()


async def test_credit_given_many_times_at_once_adds_up(
    people: People, admin: Caller, ada: str
) -> None:
    await asyncio.gather(*(people.top_up(admin, ada, 10) for _ in range(20)))

    assert (await people.find(ada)).credit == 200


async def test_credit_has_a_ceiling_as_limits_do(people: People, admin: Caller, ada: str) -> None:
    await people.top_up(admin, ada, MOST)

    with pytest.raises(BadRequestError) as refused:
        await people.top_up(admin, ada, 1)

    assert refused.value.code == "credit_too_high"
    assert (await people.find(ada)).credit == MOST


async def test_64_at_once_never_spend_more_than_the_credit(
    people: People, admin: Caller, accounts: Accounts, key: str, ada: str, meter: Meter
) -> None:
    await people.top_up(admin, ada, 10 * TEXT + TEXT // 2)
    caller = await accounts.authenticate(key)

    answers = await asyncio.gather(
        *(embed(meter, caller) for _ in range(64)), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, RateLimitError)]
    assert (answers.count(None), len(refused)) == (10, 54)
    assert (await people.find(ada)).credit_left == TEXT // 2


async def test_a_refusal_names_the_credit_and_is_not_worth_trying_again(
    people: People, admin: Caller, accounts: Accounts, key: str, ada: str, meter: Meter
) -> None:
    await people.top_up(admin, ada, TEXT - 1)

    with pytest.raises(RateLimitError, match=r"prepaid credit .* up to \$0\.001") as refused:
        await embed(meter, await accounts.authenticate(key))

    error = refused.value
    assert (error.code, error.retry_after, error.should_retry) == (
        "insufficient_quota",
        None,
        False,
    )


async def test_what_is_reserved_and_not_used_is_credit_again(
    people: People, admin: Caller, accounts: Accounts, key: str, ada: str, meter: Meter
) -> None:
    await people.top_up(admin, ada, 5 * TEXT)
    caller = await accounts.authenticate(key)

    for left in (5, 4, 3, 2, 1):
        await embed(meter, caller, at_most=left)
    with pytest.raises(RateLimitError):
        await embed(meter, caller, at_most=1)

    assert (await people.find(ada)).credit_left == 0


async def test_a_server_that_starts_again_knows_what_of_the_credit_is_spent(
    people: People, admin: Caller, accounts: Accounts, key: str, ada: str,
    database: Database, ledger: Ledger, pricing: Pricing,
) -> None:  # fmt: skip
    await people.top_up(admin, ada, 3 * TEXT)
    caller = await accounts.authenticate(key)
    for _ in range(2):
        await embed(start(database, ledger, pricing), caller)

    restarted = start(database, ledger, pricing)
    await embed(restarted, caller)

    with pytest.raises(RateLimitError):
        await embed(restarted, caller)


async def test_credit_counts_from_the_next_request_on(
    people: People, admin: Caller, accounts: Accounts, key: str, ada: str, meter: Meter
) -> None:
    await people.top_up(admin, ada, TEXT)
    await embed(meter, await accounts.authenticate(key))
    with pytest.raises(RateLimitError):
        await embed(meter, await accounts.authenticate(key))

    await people.top_up(admin, ada, TEXT)

    await embed(meter, await accounts.authenticate(key))


async def test_the_audit_log_says_how_much_credit_there_was_before_and_is_now(
    people: People, admin: Caller, ada: str, database: Database
) -> None:
    await people.top_up(admin, ada, 700)
    await people.top_up(admin, ada, 300)

    events = (await AuditLog(database.sessions).list(action="user.credit")).data

    told = [(event.before or {}, event.after or {}) for event in events]
    assert [(before["credit"], after["credit"]) for before, after in told] == [
        (700, 1_000),
        (None, 700),
    ]
    assert {event.object for event in events} == {f"user:{ada}"}


async def spend(ledger: Ledger, user_id: str, cost: int, at: datetime) -> None:
    record = new_record(request_id=id_at(at), user_id=user_id, created_at=at)
    await ledger.settle(finished(record, cost=cost))


async def test_an_invoice_says_what_was_paid_from_credit_and_what_is_due(
    people: People, admin: Caller, ada: str, database: Database, ledger: Ledger
) -> None:
    invoices = Invoices(database.sessions, clock=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    await spend(ledger, ada, 100, datetime(2026, 3, 5, tzinfo=UTC))
    await spend(ledger, ada, 20, datetime(2026, 4, 5, tzinfo=UTC))
    before = await invoices.of(ada, "2026-04")
    await people.top_up(admin, ada, 1_000)
    await spend(ledger, ada, 7, datetime(2026, 4, 25, tzinfo=UTC))
    await spend(ledger, ada, 50, datetime(2026, 5, 5, tzinfo=UTC))

    march, april, may = [await invoices.of(ada, f"2026-0{month}") for month in (3, 4, 5)]

    assert (before.paid, before.paid_amount, before.due) == (None, None, 20)
    assert [(n.cost, n.paid, n.due) for n in (march, april, may)] == [
        (100, 0, 100),
        (27, 7, 20),
        (50, 50, 0),
    ]
    assert (may.paid_amount, may.due_amount) == ("0.00005", "0.00")


async def test_what_credit_does_not_cover_is_due(
    people: People, admin: Caller, ada: str, database: Database, ledger: Ledger
) -> None:
    invoices = Invoices(database.sessions, clock=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    await people.top_up(admin, ada, 60)
    for month in (3, 4, 5):
        await spend(ledger, ada, 50, datetime(2026, month, 5, tzinfo=UTC))

    months = [await invoices.of(ada, f"2026-0{month}") for month in (3, 4, 5)]

    assert [(n.paid, n.due) for n in months] == [(50, 0), (10, 40), (0, 50)]
