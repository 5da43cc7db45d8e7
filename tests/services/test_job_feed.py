"""Who watches a job sees what happens to it, here or elsewhere, until its end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from galley.core.errors import EngineError, NotFoundError, RateLimitError
from galley.db.session import Database
from galley.schemas.jobs import JobLine, JobProgress, JobReply
from galley.services.job_feed import MOST_WATCHED, QUIET_LOOKS, JobEvent, JobFeed
from galley.services.job_kinds import JobRun
from tests.services.job_office import Gate, JobOffice

pytestmark = pytest.mark.anyio

Events = AsyncGenerator[JobEvent | None]


async def names(events: Events) -> list[str]:
    """What happens until the end, keep-alives left out."""
    async with asyncio.timeout(10), aclosing(events):
        return [_name(event) async for event in events if event is not None]


def _name(event: JobEvent) -> str:
    match event.data:
        case JobLine(event=line):
            return f"log {line}"
        case JobProgress(done=done, total=total):
            return f"progress {done} of {total}"
        case JobReply(status=status):
            return f"{event.name} {status}"
        case _:
            raise AssertionError(event)


async def test_progress_and_lines_are_told_as_they_come(database: Database) -> None:
    step = asyncio.Event()

    async def work(run: JobRun) -> dict[str, Any]:
        for done in (1, 2):
            await step.wait()
            step.clear()
            office.now += timedelta(seconds=1)
            await run.progress(done, 2, "pages")
        return {}

    office = JobOffice(database, work)
    ada = await office.hire()
    job_id = await office.submit(ada)
    seen: list[str] = []

    async def follow() -> None:
        async with aclosing(office.feed.watch(ada, job_id)) as events:
            async for event in events:
                if event is not None:
                    seen.append(_name(event))
                    if event.name != "log":
                        step.set()

    async with asyncio.timeout(10):
        watching = asyncio.create_task(follow())
        await office.runner.work()
        await watching

    assert seen[0] == "state queued"
    assert [name for name in seen if name.startswith("progress")] == [
        "progress 1 of 2", "progress 2 of 2",
    ]  # fmt: skip
    assert [name for name in seen if name.startswith("log")] == [
        "log started", "log progress", "log progress", "log ended",
    ]  # fmt: skip
    assert seen[-1] == "end succeeded"


async def test_what_is_done_elsewhere_is_found_by_looking(database: Database) -> None:
    async def nothing(_: JobRun) -> dict[str, Any]:
        return {}

    office, elsewhere = JobOffice(database, nothing), JobOffice(database, nothing)
    ada = await office.hire()
    job_id = await office.submit(ada)
    elsewhere.now = office.now
    feed = JobFeed(office.service, office.bell, look_s=0.01)

    watching = asyncio.create_task(names(feed.watch(ada, job_id)))
    await elsewhere.runner.work()

    assert (await watching)[-1] == "end succeeded"


async def test_a_job_that_is_tried_again_is_told_of(database: Database) -> None:
    async def fail_first(run: JobRun) -> dict[str, Any]:
        if run.attempt == 1:
            raise EngineError("Not now.", code="upstream_error")
        return {}

    office = JobOffice(database, fail_first)
    ada = await office.hire()
    job_id = await office.submit(ada)
    feed = JobFeed(office.service, office.bell, look_s=0.01)
    events = feed.watch(ada, job_id)

    first = await anext(events)
    await office.runner.work()
    second = [await anext(events) for _ in range(3)]
    office.now += timedelta(seconds=5)
    await office.runner.work()
    rest = await names(events)

    assert first is not None
    assert [_name(event) for event in second if event] == [
        "log started", "log retried", "state queued",
    ]  # fmt: skip
    assert rest == ["log started", "log ended", "end succeeded"]


async def test_a_quiet_stream_is_kept_alive(database: Database) -> None:
    office = JobOffice(database, Gate())
    ada = await office.hire()
    job_id = await office.submit(ada)
    feed = JobFeed(office.service, office.bell, look_s=0.001)

    async with aclosing(feed.watch(ada, job_id)) as events:
        found = [await anext(events) for _ in range(3)]

    assert QUIET_LOOKS > 1
    assert found[1:] == [None, None]


async def test_a_job_that_is_deleted_while_it_is_watched_ends_the_stream(
    database: Database,
) -> None:
    office = JobOffice(database, Gate())
    ada = await office.hire()
    job_id = await office.submit(ada)
    events = office.feed.watch(ada, job_id)

    await anext(events)
    await office.service.remove(ada, job_id)  # cancelled
    await office.service.remove(ada, job_id)  # deleted

    assert await names(events) == []


async def test_streams_end_when_the_server_stops(database: Database) -> None:
    office = JobOffice(database, Gate())
    ada = await office.hire()
    job_id = await office.submit(ada)
    events = office.feed.watch(ada, job_id)

    await anext(events)
    office.feed.close()

    assert await names(events) == []
    assert (await office.look(ada, job_id)).status == "queued"


async def test_the_job_of_another_is_not_watched(database: Database) -> None:
    office = JobOffice(database, Gate())
    ada, bob = await office.hire("ada"), await office.hire("bob")
    job_id = await office.submit(ada)

    with pytest.raises(NotFoundError):
        await anext(office.feed.watch(bob, job_id))


async def test_who_watches_as_much_as_they_may_is_refused_until_a_stream_ends(
    database: Database,
) -> None:
    office = JobOffice(database, Gate())
    ada, bob = await office.hire("ada"), await office.hire("bob")
    adas, bobs = await office.submit(ada), await office.submit(bob)
    streams = [office.feed.watch(ada, adas) for _ in range(MOST_WATCHED)]
    for events in streams:
        await anext(events)

    with pytest.raises(RateLimitError) as refused:
        await anext(office.feed.watch(ada, adas))
    of_another = office.feed.watch(bob, bobs)
    await anext(of_another)
    await streams.pop().aclose()
    streams += [office.feed.watch(ada, adas), of_another]
    told = await anext(streams[-2])

    assert refused.value.code == "too_many_streams"
    assert told is not None
    for events in streams:
        await events.aclose()


async def test_who_stops_watching_leaves_nothing_behind(database: Database) -> None:
    office = JobOffice(database, Gate())
    ada = await office.hire()
    job_id = await office.submit(ada)

    for _ in range(3):
        async with aclosing(office.feed.watch(ada, job_id)) as events:
            await anext(events)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(events)

    assert office.bell._listening == {}
