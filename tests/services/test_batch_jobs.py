"""Batches that are stopped, killed, late, or whose file is gone come to a clear end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, OverloadedError, RateLimitError
from galley.core.limits import Counter, Rule
from galley.db.jobs import add_job
from galley.db.session import Database
from galley.db.tables import new_id
from galley.db.users import create_user
from galley.db.work_tables import Batch, File, Job
from galley.schemas.batches import BatchParams
from galley.services.batch_jobs import BatchJobs
from galley.services.batch_replies import message_batch_of
from galley.services.batch_run import LONGEST_ABSENCE_S, most_at_once
from galley.services.batch_shapes import ANTHROPIC, OPENAI
from galley.services.batches import NOTICED_WITHIN, Batches
from galley.services.files import FileService, row_id, wire_id
from galley.services.job_kinds import JobRun, JobStoppedError
from galley.services.jobs import JobService
from galley.services.side_door import Answered, Asked
from tests.routers.batch_files import embedding_lines, jsonl

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for it, a few seconds at most."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - nobody rings a bell for what is on disk
            await asyncio.sleep(0.01)


@dataclass
class Office:
    """Who does batches, and a side door that is told what to say."""

    folder: Path
    database: Database
    caller: Caller
    now: datetime = NOW
    asked: list[Asked] = field(default_factory=list[Asked])
    stop_after: int | None = None
    refusal: Exception | None = None

    def __post_init__(self) -> None:
        sessions = self.database.sessions
        self.files = FileService(
            sessions, self.folder / "files", most_bytes=10**9, quota=10**9, clock=self.tell
        )
        self.jobs = BatchJobs(
            sessions, self.files, self.answer, self.folder / "batches",
            longest_line=10_000, clock=self.tell,
        )  # fmt: skip

    def tell(self) -> datetime:
        return self.now

    async def answer(self, asked: Asked) -> Answered:
        """Say of the first `stop_after` lines that they are good, and refuse the rest, or hang."""
        self.asked.append(asked)
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            if self.refusal is not None:
                raise self.refusal
            await asyncio.Event().wait()
        return Answered(200, orjson.dumps({"said": orjson.loads(asked.body)["input"]}), 3, 1, 2)

    async def file(self, lines: list[Any]) -> File:
        async def content() -> AsyncIterator[bytes]:
            yield jsonl(lines)

        return await self.files.create(self.caller, "lines.jsonl", "batch", content())

    def run(self, file: File, job_id: str, endpoint: str = "/v1/embeddings") -> JobRun:
        params = {"input_file_id": wire_id(file.id), "endpoint": endpoint}
        return JobRun(job_id, self.caller, params, 1, self.report)

    async def report(self, done: int, total: int | None, message: str | None) -> None:
        return

    async def begin(self, lines: list[Any]) -> JobRun:
        return self.run(await self.file(lines), new_id())

    async def begin_messages(self, count: int) -> JobRun:
        """Begin a message batch, as the door to these does, which has counted its requests."""
        lines = [
            line | {"url": "/v1/messages", "custom_id": f"m-{number}"}
            for number, line in enumerate(embedding_lines(count))
        ]
        run = self.run(await self.file(lines), new_id(), "/v1/messages")
        asked = BatchParams.model_validate(dict(run.params))
        await self.jobs.open(run.id, self.caller, asked, total=count)
        return run

    async def killed_after(self, run: JobRun, lines: int) -> None:
        """Begin a batch, and let its process die when so many lines are done."""
        self.stop_after, self.asked = lines, []
        working = asyncio.create_task(self.jobs.run(run))
        await until(lambda: len(self.asked) > lines and self.done(run) >= lines)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        self.stop_after = None

    def parts(self, run: JobRun) -> list[Path]:
        return list((self.folder / "batches" / run.id).glob("*.part"))

    def done(self, run: JobRun) -> int:
        return sum(part.read_bytes().count(b"\nR ") for part in self.parts(run))

    async def row(self, run: JobRun) -> Batch:
        asked = BatchParams.model_validate(dict(run.params))
        return await self.jobs.open(run.id, self.caller, asked)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        file = await self.files.find(self.caller, wire_id(str(file_id)))
        found = b"".join([piece async for piece in self.files.read(file)])
        return [orjson.loads(line) for line in found.splitlines()]


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> Office:
    async with database.sessions.begin() as session:
        user = await create_user(session, email="ada@example.org", name="Ada")
    return Office(tmp_path, database, Caller(user.id, scopes=frozenset({"files", "embeddings"})))


async def test_a_batch_that_was_killed_goes_on_where_it_was(office: Office) -> None:
    run = await office.begin(embedding_lines(50))
    await office.killed_after(run, 10)
    before = {asked.body: asked.arrival for asked in office.asked}
    office.now += timedelta(hours=1)

    result = await office.jobs.run(run)

    batch = await office.row(run)
    output = await office.lines(batch.output_file_id)
    assert result["status"] == batch.status == "completed"
    assert [line["custom_id"] for line in output] == [f"line-{n}" for n in range(1, 51)]
    assert (batch.completed, batch.prompt_tokens, batch.completion_tokens) == (50, 150, 100)
    again = [asked for asked in office.asked[len(before) :] if asked.body in before]
    assert 0 < len(again) == len(before) - 10
    for asked in again:  # those that had begun: under the same id, and from the same moment
        assert asked.arrival.request_id == before[asked.body].request_id
        assert asked.arrival.at == before[asked.body].at == NOW
    assert len({asked.arrival.request_id for asked in office.asked}) == 50
    assert office.parts(run) == []


async def test_what_a_crash_cut_off_is_asked_again(office: Office) -> None:
    run = await office.begin(embedding_lines(20))
    await office.killed_after(run, 5)
    (part,) = office.parts(run)
    part.write_bytes(part.read_bytes()[:-7])

    await office.jobs.run(run)

    batch = await office.row(run)
    output = await office.lines(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"line-{n}" for n in range(1, 21)]
    assert batch.completed == 20


async def test_a_line_that_two_runs_answered_counts_once(office: Office) -> None:
    run = await office.begin(embedding_lines(20))
    await office.killed_after(run, 5)
    (part,) = office.parts(run)
    part.with_name("zombie.part").write_bytes(part.read_bytes())

    await office.jobs.run(run)

    batch = await office.row(run)
    assert (batch.completed, batch.failed, batch.prompt_tokens) == (20, 0, 60)
    assert len(await office.lines(batch.output_file_id)) == 20


async def test_a_batch_that_is_done_twice_has_the_same_files(office: Office) -> None:
    run = await office.begin(embedding_lines(3))

    first = await office.jobs.run(run)
    again = await office.jobs.run(run)

    assert first == again
    assert len(office.asked) == 3


async def test_lines_that_are_left_when_its_time_is_over_are_told_in_the_error_file(
    office: Office,
) -> None:
    run = await office.begin(embedding_lines(40))
    await office.killed_after(run, 10)
    office.now += timedelta(hours=25)
    asked = len(office.asked)

    await office.jobs.run(run)

    batch = await office.row(run)
    errors = await office.lines(batch.error_file_id)
    assert (batch.status, batch.completed, batch.failed) == ("expired", 10, 30)
    assert len(office.asked) == asked
    assert len(await office.lines(batch.output_file_id)) == 10
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}
    assert {line["response"] for line in errors} == {None}


async def test_a_batch_whose_file_is_gone_fails_with_what_it_has(office: Office) -> None:
    run = await office.begin(embedding_lines(40))
    await office.killed_after(run, 10)
    await office.files.delete(office.caller, run.params["input_file_id"])

    with pytest.raises(BadRequestError, match="no file"):
        await office.jobs.run(run)

    batch = await office.row(run)
    assert (batch.status, batch.completed) == ("failed", 10)
    assert batch.errors is not None
    assert batch.errors[0]["code"] == "file_not_found"
    assert len(await office.lines(batch.output_file_id)) == 10


async def test_a_batch_whose_job_is_gone_ends_once_however_many_look(office: Office) -> None:
    run = await office.begin(embedding_lines(40))
    await office.killed_after(run, 10)
    batches = Batches(office.database.sessions, cast("JobService", None), office.jobs)
    batch_id = OPENAI.id_of(await office.row(run))

    found = await asyncio.gather(*(batches.find(office.caller, batch_id) for _ in range(8)))

    assert {(batch.status, batch.completed) for batch in found} == {("cancelled", 10)}
    listed = await office.files.list(
        office.caller, purpose="batch_output", after=None, limit=9, latest_first=True
    )
    assert [row_id(file.id) for file in listed.data] == [found[0].output_file_id]


async def test_a_batch_whose_job_was_cancelled_just_now_waits_for_what_is_still_answered(
    office: Office,
) -> None:
    run = await office.begin(embedding_lines(40))
    await office.killed_after(run, 10)
    job = Job(
        id=run.id, user_id=office.caller.user_id, key_id=new_id(), kind="run_batch", params={},
        fingerprint=bytes(32), status="cancelled", due_at=NOW, created_at=NOW, finished_at=NOW,
    )  # fmt: skip
    async with office.database.sessions.begin() as session:
        await add_job(session, job)
    batches = Batches(
        office.database.sessions, cast("JobService", None), office.jobs, clock=office.tell
    )
    batch_id = OPENAI.id_of(await office.row(run))

    at_once = await batches.find(office.caller, batch_id)
    office.now += NOTICED_WITHIN
    later = await batches.find(office.caller, batch_id)

    assert at_once.status == "in_progress"
    assert (later.status, later.completed) == ("cancelled", 10)


async def test_a_server_that_ends_a_batch_late_leaves_the_results_as_they_are(
    office: Office,
) -> None:
    run = await office.begin_messages(40)
    await office.killed_after(run, 10)
    before = await office.row(run)
    ended = await office.jobs.end(office.caller, before, "cancelled")

    again = await office.jobs.end(office.caller, before, "cancelled")

    results = await office.lines(again.output_file_id)
    assert (again.status, again.ended_at) == (ended.status, ended.ended_at)
    assert [line["result"]["type"] for line in results] == ["succeeded"] * 10 + ["canceled"] * 30
    assert office.parts(run) == []


async def test_a_model_that_cannot_be_one_is_for_the_lines_own_answers_to_tell(
    office: Office,
) -> None:
    run = await office.begin(embedding_lines(3, model="a\0b"))

    result = await office.jobs.run(run)

    assert (result["status"], result["completed"]) == ("completed", 3)
    assert (await office.row(run)).model is None


async def test_a_message_batch_that_was_killed_goes_on_and_no_request_has_two_ids(
    office: Office,
) -> None:
    run = await office.begin_messages(50)
    await office.killed_after(run, 10)
    begun = len(office.asked)

    result = await office.jobs.run(run)

    batch = await office.row(run)
    results = await office.lines(batch.output_file_id)
    assert begun > 10
    assert len({asked.arrival.request_id for asked in office.asked}) == 50
    assert result["batch_id"] == ANTHROPIC.id_of(batch)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert [line["custom_id"] for line in results] == [f"m-{n}" for n in range(50)]
    assert {line["result"]["type"] for line in results} == {"succeeded"}


@pytest.mark.parametrize(
    ("ending", "kind"), [("expired", "expired"), ("cancelled", "canceled"), ("failed", "errored")]
)
async def test_every_request_of_a_message_batch_has_a_result_however_it_ends(
    office: Office, ending: Any, kind: str
) -> None:
    run = await office.begin_messages(40)
    await office.killed_after(run, 10)
    faults = [{"code": "job_lost", "message": "The server died."}] if ending == "failed" else None

    batch = await office.jobs.end(office.caller, await office.row(run), ending, faults)

    results = await office.lines(batch.output_file_id)
    counts = message_batch_of(batch, "http://galley").request_counts.model_dump()
    assert sorted(line["custom_id"] for line in results) == sorted(f"m-{n}" for n in range(40))
    assert [line["result"]["type"] for line in results] == ["succeeded"] * 10 + [kind] * 30
    assert counts == dict.fromkeys(counts, 0) | {"succeeded": 10, kind: 30}
    if ending == "failed":
        assert results[-1]["result"]["error"]["error"]["message"] == "The server died."


async def test_a_message_batch_whose_requests_are_gone_tells_what_it_has(office: Office) -> None:
    run = await office.begin_messages(40)
    await office.killed_after(run, 10)
    await office.files.delete(office.caller, run.params["input_file_id"])

    with pytest.raises(BadRequestError, match="no file"):
        await office.jobs.run(run)

    batch = await office.row(run)
    counts = message_batch_of(batch, "http://galley").request_counts
    assert len(await office.lines(batch.output_file_id)) == 10
    assert (counts.succeeded, counts.errored) == (10, 30)


async def test_a_long_wait_gives_its_place_to_other_jobs(office: Office) -> None:
    run = await office.begin(embedding_lines(40))
    office.stop_after = 10
    office.refusal = RateLimitError("Later.", code="rate_limit_exceeded", retry_after=9_999)

    with pytest.raises(RateLimitError) as put_off:
        await office.jobs.run(run)

    assert put_off.value.retry_after == LONGEST_ABSENCE_S
    assert (await office.row(run)).status == "in_progress"
    assert (await office.row(run)).completed == 10


async def test_a_short_wait_is_waited_for(office: Office) -> None:
    run = await office.begin(embedding_lines(20))
    office.stop_after, office.refusal = 10, OverloadedError("Full.", retry_after=0.2)
    running = asyncio.create_task(office.jobs.run(run))
    await until(lambda: len(office.asked) >= 20)
    office.stop_after = None

    result = await running

    assert (result["status"], result["completed"], result["failed"]) == ("completed", 20, 0)


async def test_a_run_whose_lease_is_lost_ends_at_once(office: Office) -> None:
    office.stop_after = 10

    async def lost(done: int, total: int | None, message: str | None) -> None:
        raise JobStoppedError

    run = await office.begin(embedding_lines(20))
    stopped = JobRun(run.id, office.caller, run.params, 1, lost)

    with pytest.raises(JobStoppedError):
        await office.jobs.run(stopped)

    assert (await office.row(run)).status == "in_progress"


async def test_the_results_of_batches_that_have_ended_are_swept_away(office: Office) -> None:
    ended, under_way = (
        await office.begin(embedding_lines(1)),
        await office.begin(embedding_lines(20)),
    )
    await office.jobs.run(ended)
    left = office.folder / "batches" / ended.id
    left.mkdir()
    await office.killed_after(under_way, 3)

    await office.jobs.sweep()

    assert not left.exists()
    assert len(office.parts(under_way)) == 1


async def test_the_owner_of_a_batch_keeps_half_of_their_concurrent_requests() -> None:
    def limited(limit: int) -> Caller:
        return Caller("a", rules=(Rule(Counter("user:a", "concurrency", "now"), limit),))

    assert [most_at_once(limited(limit)) for limit in (0, 1, 2, 8, 1000)] == [1, 1, 1, 4, 16]
    assert most_at_once(Caller("a")) == 16
