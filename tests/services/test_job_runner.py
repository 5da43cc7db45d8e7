"""Jobs are done once, in turn, and tried again when they should be; on SQLite and PostgreSQL."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from galley.core.errors import BadRequestError, EngineError, RateLimitError
from galley.db.session import Database
from galley.db.tables import ApiKey, User, utc_now
from galley.db.work_tables import Job
from galley.services.job_keeper import MOST_ATTEMPTS
from galley.services.job_kinds import JobRun
from galley.services.job_runner import LEASE
from tests.services.job_office import Gate, JobOffice

pytestmark = pytest.mark.anyio


async def echo(run: JobRun) -> dict[str, Any]:
    await run.progress(1, 2, "half of it")
    return dict(run.params)


async def test_a_job_that_is_done_has_its_result_and_a_log(database: Database) -> None:
    office = JobOffice(database, echo)
    ada = await office.hire()
    job_id = await office.submit(ada, name="one", count=7)

    await office.runner.work()

    job = await office.look(ada, job_id)
    assert (job.status, job.attempts, job.error) == ("succeeded", 1, None)
    assert job.result == {"name": "one", "count": 7}
    assert job.progress.model_dump() == {"done": 1, "total": 2, "message": "half of it"}
    assert [line.event for line in job.log] == ["queued", "started", "ended"]
    assert job.started_at is not None
    assert job.finished_at == office.now
    assert office.finished == [("export", "succeeded")]


async def test_what_the_caller_did_wrong_fails_the_job_at_once_with_the_reason(
    database: Database,
) -> None:
    async def refuse(_: JobRun) -> dict[str, Any]:
        raise BadRequestError("The file is\x00 no text.", code="bad_file")

    office = JobOffice(database, refuse)
    ada = await office.hire()
    job_id = await office.submit(ada)

    await office.runner.work()

    job = await office.look(ada, job_id)
    assert (job.status, job.attempts) == ("failed", 1)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("bad_file", "The file is  no text.")


@pytest.mark.parametrize("error", [EngineError("It broke.", code="upstream_error"), OSError(5)])
async def test_other_errors_are_tried_again_after_growing_pauses_three_times_in_all(
    database: Database, error: Exception
) -> None:
    async def fail(_: JobRun) -> dict[str, Any]:
        raise error

    office = JobOffice(database, fail)
    ada = await office.hire()
    job_id = await office.submit(ada)
    pauses: list[float] = []

    while (job := await office.look(ada, job_id)).due_at is not None:
        pauses.append((job.due_at - office.now).total_seconds())
        office.now = max(office.now, job.due_at)
        await office.runner.work()

    assert (job.status, job.attempts) == ("failed", MOST_ATTEMPTS)
    assert pauses[1:] == [4.0, 16.0]
    assert [line.event for line in job.log].count("retried") == 2


async def test_a_job_that_is_to_be_tried_again_is_not_before_its_time(database: Database) -> None:
    seen: list[int] = []

    async def fail_first(run: JobRun) -> dict[str, Any]:
        seen.append(run.attempt)
        if run.attempt == 1:
            raise EngineError("Not now.", code="upstream_error")
        return {}

    office = JobOffice(database, fail_first)
    ada = await office.hire()
    job_id = await office.submit(ada)

    await office.runner.work()
    await office.runner.work()
    first = list(seen)
    office.now += timedelta(seconds=4)
    await office.runner.work()

    job = await office.look(ada, job_id)
    assert (first, seen) == ([1], [1, 2])
    assert (job.status, job.error) == ("succeeded", None)


async def test_waiting_for_a_limit_is_no_attempt(database: Database) -> None:
    calls = Counter[str]()

    async def limited(run: JobRun) -> dict[str, Any]:
        calls["all"] += 1
        if calls["all"] <= MOST_ATTEMPTS:
            raise RateLimitError("Too fast.", code="rate_limit_exceeded", retry_after=30)
        return {"attempt": run.attempt}

    office = JobOffice(database, limited)
    ada = await office.hire()
    job_id = await office.submit(ada)

    for _ in range(MOST_ATTEMPTS + 1):
        await office.runner.work()
        office.now += timedelta(seconds=31)

    job = await office.look(ada, job_id)
    assert (job.status, job.result) == ("succeeded", {"attempt": 1})


async def test_users_take_turns_however_many_jobs_one_has(database: Database) -> None:
    order: list[str] = []

    async def note(run: JobRun) -> dict[str, Any]:
        order.append(run.params["name"])
        office.now += timedelta(seconds=1)
        return {}

    office = JobOffice(database, note)
    ada, bob, eve = [await office.hire(name) for name in ("ada", "bob", "eve")]
    for _ in range(4):
        await office.submit(ada, name="ada")
    for caller, name in ((bob, "bob"), (eve, "eve"), (bob, "bob")):
        await office.submit(caller, name=name)

    await office.runner.work()

    assert set(order[:3]) == {"ada", "bob", "eve"}
    assert set(order[3:5]) == {"ada", "bob"}
    assert order[5:] == ["ada", "ada"]


async def test_no_more_jobs_of_one_user_run_at_once_than_may(database: Database) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada, bob = await office.hire("ada"), await office.hire("bob")
    for _ in range(5):
        await office.submit(ada)
    bobs = await office.submit(bob)
    runners = [office.new_runner(most_running=2) for _ in range(4)]

    working = [asyncio.create_task(runner.work()) for runner in runners]
    for _ in range(3):
        await gate.begun.acquire()
    running = [job.id for job in (await office.service.list(ada, status="running")).data]
    bobs_status = (await office.look(bob, bobs)).status
    gate.opened.set()
    await asyncio.gather(*working)
    await office.runner.work()

    assert len(running) == 2
    assert bobs_status == "running"
    assert len((await office.service.list(ada, status="succeeded")).data) == 5


async def test_a_job_is_done_by_one_runner_however_many_look_for_it(database: Database) -> None:
    done = Counter[str]()

    async def count(run: JobRun) -> dict[str, Any]:
        done[run.id] += 1
        await asyncio.sleep(0)
        return {}

    office = JobOffice(database, count)
    callers = [await office.hire(name) for name in ("ada", "bob", "eve")]
    jobs = [await office.submit(callers[n % 3]) for n in range(12)]

    runners = [office.new_runner() for _ in range(4)]
    await asyncio.gather(*(runner.work() for runner in runners))
    await office.runner.work()

    assert done == Counter(jobs)


async def test_who_has_lost_the_lease_is_stopped_and_writes_nothing(database: Database) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada = await office.hire()
    job_id = await office.submit(ada)
    first = asyncio.create_task(office.runner.work())
    await gate.begun.acquire()

    office.now += LEASE + timedelta(seconds=1)  # and nobody renewed it
    recovered = await office.keeper.recover()
    second = office.new_runner()
    working = asyncio.create_task(second.work())
    await gate.begun.acquire()
    await office.runner.renew()  # finds out
    await first
    gate.opened.set()
    await working

    job = await office.look(ada, job_id)
    assert (recovered, gate.stopped) == (1, 1)
    assert (job.status, job.attempts, job.result) == ("succeeded", 2, {"attempt": 2})
    assert [line.event for line in job.log] == [
        "queued", "started", "interrupted", "started", "ended",
    ]  # fmt: skip


async def test_a_lease_that_is_renewed_is_nobody_elses(database: Database) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada = await office.hire()
    await office.submit(ada)
    working = asyncio.create_task(office.runner.work())
    await gate.begun.acquire()

    for _ in range(5):
        office.now += LEASE / 3
        await office.runner.renew()
    recovered = await office.keeper.recover()
    gate.opened.set()
    await working

    assert (recovered, gate.stopped) == (0, 0)
    assert office.finished == [("export", "succeeded")]


async def test_a_job_that_kills_its_server_three_times_has_failed(database: Database) -> None:
    office = JobOffice(database, echo)
    ada = await office.hire()
    job_id = await office.submit(ada)

    for attempt in range(1, MOST_ATTEMPTS + 1):
        await die(office, job_id, attempt)
        await office.keeper.recover(alone=True)

    job = await office.look(ada, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "job_lost"
    assert await office.keeper.recover(alone=True) == 0


async def die(office: JobOffice, job_id: str, attempt: int) -> None:
    """Leave the row as a server does that is killed during an attempt."""
    async with office.database.sessions.begin() as session:
        held = {
            "status": "running",
            "attempts": attempt,
            "lease": job_id,
            "leased_until": office.now,
        }
        await session.execute(update(Job).where(Job.id == job_id).values(held))


async def test_a_job_that_is_cancelled_is_stopped_where_it_waits(database: Database) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada = await office.hire()
    job_id = await office.submit(ada)
    working = asyncio.create_task(office.runner.work())
    await gate.begun.acquire()

    gone = await office.service.remove(ada, job_id)
    await working

    job = await office.look(ada, job_id)
    assert (gone.status, gone.deleted) == ("cancelled", False)
    assert (job.status, job.result, gate.stopped) == ("cancelled", None, 1)


async def test_progress_of_a_job_that_was_cancelled_elsewhere_is_refused(
    database: Database,
) -> None:
    refused: list[str] = []

    async def work(run: JobRun) -> dict[str, Any]:
        await elsewhere.remove(run.caller, run.id)
        try:
            await run.progress(1, 1)
        except Exception as error:
            refused.append(type(error).__name__)
            raise
        return {}

    office = JobOffice(database, work)
    ada = await office.hire()
    job_id = await office.submit(ada)
    other = JobOffice(database, work)  # another server
    other.now = office.now
    elsewhere = other.service

    await office.runner.work()

    assert refused == ["JobStoppedError"]
    assert (await office.look(ada, job_id)).status == "cancelled"


async def test_what_runs_when_the_server_stops_is_given_back_and_that_is_no_attempt(
    database: Database,
) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada = await office.hire()
    job_id = await office.submit(ada)
    working = asyncio.create_task(office.runner.work())
    await gate.begun.acquire()

    await office.runner.aclose()
    await working
    stopped = await office.look(ada, job_id)
    gate.opened.set()
    await office.new_runner().work()

    assert (stopped.status, stopped.attempts) == ("queued", 0)
    assert (await office.look(ada, job_id)).result == {"attempt": 1}


@pytest.mark.parametrize("closed", ["key", "user"])
async def test_a_job_whose_owner_may_not_come_in_any_more_fails(
    database: Database, closed: str
) -> None:
    office = JobOffice(database, echo)
    ada = await office.hire()
    job_id = await office.submit(ada)
    async with database.sessions.begin() as session:
        if closed == "key":
            await session.execute(update(ApiKey).values(revoked_at=utc_now()))
        else:
            await session.execute(update(User).values(status="disabled"))

    await office.runner.work()

    job = await office.look(ada, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "invalid_api_key"


async def test_a_job_ends_whose_owner_may_not_come_in_any_more_while_it_runs(
    database: Database,
) -> None:
    gate = Gate()
    office = JobOffice(database, gate)
    ada, grace = await office.hire(), await office.hire("grace")
    theirs, others = await office.submit(ada), await office.submit(grace)
    running = asyncio.create_task(office.runner.keep())
    for _ in range(2):
        await gate.begun.acquire()
    async with database.sessions.begin() as session:
        await session.execute(update(User).where(User.id == ada.user_id).values(status="disabled"))

    await office.runner.dismiss()

    async with asyncio.timeout(10):
        while (job := await office.look(ada, theirs)).status != "failed":  # noqa: ASYNC110 - no bell
            await asyncio.sleep(0.02)
    assert job.error is not None
    assert (job.error.code, gate.stopped) == ("invalid_api_key", 1)
    assert (await office.look(grace, others)).status == "running"
    running.cancel()
    await office.runner.aclose()


async def test_a_job_whose_owner_lost_a_scope_that_it_needs_fails(database: Database) -> None:
    office = JobOffice(database, echo, scopes=("files",))
    ada = await office.hire()
    job_id = await office.submit(ada)
    async with database.sessions.begin() as session:
        await session.execute(update(ApiKey).values(scopes=["jobs"]))

    await office.runner.work()

    job = await office.look(ada, job_id)
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", "missing_scope")


async def test_requests_of_a_job_have_the_same_ids_in_every_attempt(database: Database) -> None:
    ids: list[str] = []

    async def work(run: JobRun) -> dict[str, Any]:
        ids.extend(run.request_id(part) for part in ("1", "2"))
        if run.attempt == 1:
            raise EngineError("Not now.", code="upstream_error")
        return {}

    office = JobOffice(database, work)
    ada = await office.hire()
    job_id = await office.submit(ada)
    await office.runner.work()
    office.now += timedelta(seconds=5)
    await office.runner.work()

    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    assert {(UUID(i).version, UUID(i).variant) for i in ids} == {(7, UUID(job_id).variant)}
    assert {i[:13] for i in ids} == {job_id[:13]}


async def test_the_loop_does_what_is_due_and_what_it_is_told_of(database: Database) -> None:
    office = JobOffice(database, echo)
    ada = await office.hire()
    before = await office.submit(ada)
    loop = asyncio.create_task(office.runner.keep())

    await until_ended(office, ada, before)
    later = await office.submit(ada)
    await office.service.start(later)
    await until_ended(office, ada, later)

    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert office.finished == [("export", "succeeded")] * 2


async def until_ended(office: JobOffice, caller: Any, job_id: str) -> None:
    """Watch a job until its end."""
    async with asyncio.timeout(10):
        async for event in office.feed.watch(caller, job_id):
            if event is not None and event.name == "end":
                return
