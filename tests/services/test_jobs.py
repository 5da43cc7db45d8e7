"""Jobs are accepted once, within limits, and for their owner alone."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from galley.core.caller import Caller
from galley.core.errors import (
    BadRequestError,
    ConflictError,
    GalleyError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableError,
)
from galley.db.session import Database
from galley.schemas.jobs import WebhookTarget
from galley.services.job_kinds import JobRun
from galley.services.retention import RetentionService
from galley.services.webhooks import new_secret
from tests.services.job_office import JobOffice

pytestmark = pytest.mark.anyio


async def nothing(_: JobRun) -> dict[str, Any]:
    return {}


async def test_the_same_key_and_body_give_the_same_job(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    first = await office.accept(ada, {"count": 1}, idempotency_key="a")
    await office.runner.work()

    again = await office.accept(ada, {"count": 1}, idempotency_key="a")

    assert (again.id, again.status, again.is_new) == (first.id, "succeeded", False)
    assert len((await office.service.list(ada)).data) == 1


@pytest.mark.parametrize("changed", ["params", "webhook"])
async def test_the_same_key_with_another_body_is_refused(database: Database, changed: str) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    await office.accept(ada, {"count": 1}, idempotency_key="a")
    webhook = WebhookTarget(url="https://example.org/hook") if changed == "webhook" else None
    params = {"count": 2} if changed == "params" else {"count": 1}

    with pytest.raises(ConflictError) as refused:
        await office.accept(ada, params, idempotency_key="a", webhook=webhook)

    assert refused.value.code == "idempotency_key_reused"


async def test_two_users_with_the_same_key_have_a_job_each(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada, bob = await office.hire("ada"), await office.hire("bob")

    adas = await office.accept(ada, {"count": 1}, idempotency_key="a")
    bobs = await office.accept(bob, {"count": 2}, idempotency_key="a")

    assert adas.id != bobs.id
    assert (await office.look(bob, bobs.id)).params == {"name": "", "count": 2}


async def test_requests_with_one_key_that_come_at_once_make_one_job(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()

    made = await asyncio.gather(
        *(office.accept(ada, {"count": 1}, idempotency_key="a") for _ in range(8))
    )

    assert len({one.id for one in made}) == 1
    assert [one.is_new for one in made].count(True) == 1


async def test_no_more_jobs_of_one_user_wait_than_may(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada, bob = await office.hire("ada"), await office.hire("bob")
    office.service = office.new_service(most_queued=3)

    tries = [office.accept(ada, {}) for _ in range(8)]
    made = await asyncio.gather(*tries, return_exceptions=True)
    await office.accept(bob, {})

    refused = [one for one in made if isinstance(one, RateLimitError)]
    assert len(refused) == 5
    assert {error.code for error in refused} == {"too_many_jobs"}
    assert len((await office.service.list(ada, status="queued")).data) == 3


@pytest.mark.parametrize(
    ("params", "loc"),
    [({"count": "x"}, "count"), ({"colour": 1}, "colour"), ({"count": 1.5}, "count")],
)
async def test_params_that_do_not_fit_are_refused_by_name(
    database: Database, params: dict[str, Any], loc: str
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()

    with pytest.raises(UnprocessableError) as refused:
        await office.accept(ada, params)

    assert [fault["loc"] for fault in refused.value.details] == [["body", "params", loc]]
    assert (await office.service.list(ada)).data == []


async def test_params_are_kept_as_they_are_odd_characters_included(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()

    job_id = await office.submit(ada, name="a\x00\u2028\U0001f600'\"b")

    assert (await office.look(ada, job_id)).params["name"] == "a\x00\u2028\U0001f600'\"b"


async def test_what_a_kind_checks_beforehand_makes_no_job(database: Database) -> None:
    async def check(_: Caller, params: Any) -> None:
        raise NotFoundError(f"No {params.name}.", code="file_not_found")

    office = JobOffice(database, nothing, check=check)
    ada = await office.hire()

    with pytest.raises(NotFoundError):
        await office.accept(ada, {"name": "file"})

    assert (await office.service.list(ada)).data == []


async def test_a_caller_without_the_scope_of_the_work_makes_no_job(database: Database) -> None:
    office = JobOffice(database, nothing, scopes=("admin:users",))
    ada = await office.hire()

    with pytest.raises(PermissionDeniedError):
        await office.accept(ada, {})


@pytest.mark.parametrize(
    "webhook",
    [
        WebhookTarget(url="http://example.org/"),
        WebhookTarget(url="https://127.0.0.1/"),
        WebhookTarget(url="https://example.org/", secret="whsec_" + "A" * 33),
    ],
    ids=["not https", "private", "no secret"],
)
async def test_a_webhook_that_cannot_be_is_refused_at_once(
    database: Database, webhook: WebhookTarget
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()

    with pytest.raises(BadRequestError):
        await office.accept(ada, {}, webhook=webhook)

    assert (await office.service.list(ada)).data == []


async def test_a_secret_is_made_where_none_is_given_and_never_shown_again(
    database: Database,
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    own = new_secret()

    made = await office.accept(ada, {}, webhook=WebhookTarget(url="https://example.org/"))
    given = await office.accept(
        ada, {}, webhook=WebhookTarget(url="https://example.org/", secret=own)
    )

    assert made.webhook_secret is not None
    assert made.webhook_secret.startswith("whsec_")
    assert given.webhook_secret is None
    for one in (made, given):
        shown = (await office.look(ada, one.id)).model_dump_json()
        assert "whsec_" not in shown


async def test_the_jobs_of_others_are_not_there(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada, bob = await office.hire("ada"), await office.hire("bob")
    job_id = await office.submit(ada)

    for touch in (office.service.find, office.service.remove):
        for known in (job_id, "nonsense", "\x00"):
            with pytest.raises(NotFoundError):
                await touch(bob, known)
    assert (await office.service.list(bob)).data == []
    assert (await office.look(ada, job_id)).status == "queued"


async def test_a_job_that_waits_is_cancelled_and_never_done(database: Database) -> None:
    done: list[str] = []

    async def note(run: JobRun) -> dict[str, Any]:
        done.append(run.id)
        return {}

    office = JobOffice(database, note)
    ada = await office.hire()
    job_id = await office.submit(ada)

    gone = await office.service.remove(ada, job_id)
    await office.runner.work()

    assert (gone.status, gone.deleted, done) == ("cancelled", False, [])


async def test_a_job_that_has_ended_is_deleted_and_its_key_is_free(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    target = WebhookTarget(url="https://example.org/")
    made = await office.accept(ada, {}, idempotency_key="a", webhook=target)
    await office.runner.work()

    gone = await office.service.remove(ada, made.id)
    again = await office.accept(ada, {"count": 2}, idempotency_key="a")

    assert (gone.status, gone.deleted, again.is_new) == ("succeeded", True, True)
    with pytest.raises(NotFoundError):
        await office.look(ada, made.id)


async def test_lists_are_paged_from_the_latest_and_filtered(database: Database) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    jobs = [await office.submit(ada) for _ in range(5)]
    await office.service.remove(ada, jobs[2])

    pages: list[list[str]] = []
    after, more = None, True
    while more:
        page = await office.service.list(ada, after=after, limit=2)
        pages.append([job.id for job in page.data])
        after, more = page.next_after, page.has_more
    cancelled = await office.service.list(ada, status="cancelled")
    others = await office.service.list(ada, kind="embed")

    assert pages == [jobs[:2:-1], jobs[2:0:-1], jobs[:1]]
    assert [job.id for job in cancelled.data] == [jobs[2]]
    assert others.data == []
    with pytest.raises(GalleyError):
        await office.service.list(ada, after="nonsense")


async def test_jobs_that_have_ended_are_deleted_when_they_are_old_and_others_are_not(
    database: Database,
) -> None:
    office = JobOffice(database, nothing)
    ada = await office.hire()
    ended, waiting = await office.submit(ada), await office.submit(ada)
    await office.service.remove(ada, ended)
    later = office.now + timedelta(days=3650)
    retention = RetentionService(database.sessions, 0, job_days=1, clock=lambda: later)

    count = await retention.delete_old_jobs()

    assert count == 1
    assert [job.id for job in (await office.service.list(ada)).data] == [waiting]
