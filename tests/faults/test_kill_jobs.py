"""kill -9 in the middle of accepted jobs, of the server that does them and of a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.security import make_key
from galley.db.tables import ApiRequest
from galley.db.work_tables import File
from tests.databases import visit
from tests.node import galley_serve
from tests.redis_server import RedisServer
from tests.serving import make_settings, serving
from tests.waiting import until

MODEL = "all-minilm-l6-v2"
ONE_MODEL = {
    "GALLEY_EMBEDDED_MODELS": "false",
    "GALLEY_MODELS": orjson.dumps(
        {MODEL: EMBEDDED_MODELS[MODEL].model_dump(mode="json", exclude_defaults=True)}
    ).decode(),
}
TEXTS = 3
LONGEST_S = 120


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_jobs_of_a_killed_server_all_finish_after_the_next_start_with_their_effects_once(
    models_dir: Path, tmp_path: Path, count: int
) -> None:
    key = make_key()
    with (
        galley_serve(tmp_path, models_dir, key, **ONE_MODEL) as (url, pid),
        client(url, key) as api,
    ):
        submitted = submit(api, count)
        until(lambda: len(ended(api)) >= count // 4, LONGEST_S)
        children = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(children, timeout=10)

    with galley_serve(tmp_path, models_dir, key, **ONE_MODEL) as (url, _), client(url, key) as api:
        until(lambda: len(ended(api)) == count, LONGEST_S)
        jobs = described(api)

    assert {job["id"]: job["status"] for job in jobs} == dict.fromkeys(submitted, "succeeded")
    assert any(line["event"] == "interrupted" for job in jobs for line in job["log"])
    assert_effects_once(f"sqlite:///{tmp_path}/galley.db", tmp_path, jobs)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "count"), [(signal.SIGKILL, 200), (signal.SIGTERM, 30)])
def test_jobs_of_a_celery_worker_that_ends_are_finished_by_the_next_one_with_their_effects_once(
    models_dir: Path,
    tmp_path: Path,
    postgresql_url: str,
    redis_server: RedisServer,
    ending: signal.Signals,
    count: int,
) -> None:
    broker = redis_server.url.replace("unix://", "redis+socket://")
    shared = {"GALLEY_DATABASE_URL": postgresql_url, "GALLEY_BROKER_URL": broker} | ONE_MODEL
    settings = make_settings(
        tmp_path, models_dir,
        database_url=postgresql_url, broker_url=broker, embedded_models=False,
        models={MODEL: EMBEDDED_MODELS[MODEL]},
    )  # fmt: skip
    with serving(settings) as server:
        submitted = submit(server.client, count)
        with worker(tmp_path, models_dir, shared) as process:
            until(lambda: len(ended(server.client)) >= count // 4, LONGEST_S)
            process.send_signal(ending)
            first_code = process.wait(30)
        running = server.client.get("/v1/jobs", params={"status": "running"}).json()["data"]
        visit(postgresql_url, lose_leases)

        with worker(tmp_path, models_dir, shared) as process:
            until(lambda: len(ended(server.client)) == count, LONGEST_S)
            jobs = described(server.client)
            process.terminate()
            code = process.wait(30)

    assert {job["id"]: job["status"] for job in jobs} == dict.fromkeys(submitted, "succeeded")
    if ending == signal.SIGKILL:
        assert any(line["event"] == "interrupted" for job in jobs for line in job["log"])
    else:  # it gave back what it had
        assert (first_code, running) == (0, [])
        assert {job["attempts"] for job in jobs} == {1}
    assert_effects_once(postgresql_url, tmp_path, jobs)
    assert code == 0


def submit(api: httpx2.Client, count: int) -> list[str]:
    """Ask for jobs, half of them exports, half of them embeddings of the lines of a file."""
    lines = "\n".join(f"line {n} of a file" for n in range(TEXTS))
    upload = {"file": ("lines.txt", lines.encode())}
    file_id = api.post("/v1/files", files=upload, data={"purpose": "user_data"}).json()["id"]
    kinds = (
        {"task": "export", "params": {"format": "jsonl"}},
        {"task": "embed", "params": {"file_id": file_id, "model": MODEL}},
    )
    answers = [api.post("/process", json=kinds[n % 2]) for n in range(count)]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["job_id"] for answer in answers]


def all_jobs(api: httpx2.Client) -> list[dict[str, Any]]:
    return api.get("/v1/jobs", params={"limit": 1000}).json()["data"]


def described(api: httpx2.Client) -> list[dict[str, Any]]:
    """All jobs, with their results and logs."""
    return [api.get(f"/v1/jobs/{job['id']}").json() for job in all_jobs(api)]


def ended(api: httpx2.Client) -> list[dict[str, Any]]:
    return [job for job in all_jobs(api) if job["status"] not in {"queued", "running"}]


def assert_effects_once(url: str, data_dir: Path, jobs: list[dict[str, Any]]) -> None:
    """Each job has its one file, and each embedding its one settled request."""

    async def read(session: AsyncSession) -> tuple[set[str], list[Sequence[Any]]]:
        files = set(await session.scalars(select(File.id).where(File.name != "lines.txt")))
        key = (ApiRequest.endpoint, ApiRequest.state)
        rows = await session.execute(select(*key, func.count()).group_by(*key))
        sums = await session.execute(text("SELECT sum(requests), sum(units) FROM usage_hourly"))
        return files, [*rows.all(), *sums.all()]

    files, sums = visit(url, read)

    embedded = len(jobs) // 2
    assert files == {job["id"] for job in jobs}
    assert sums == [("embeddings", "completed", embedded), (embedded, embedded * TEXTS)]
    for job in jobs:
        made = (data_dir / "files" / job["id"]).read_bytes()
        assert len(made) == job["result"]["bytes"]
        if job["task"] == "embed":
            assert [orjson.loads(line)["line"] for line in made.splitlines()] == [1, 2, 3]


async def lose_leases(session: AsyncSession) -> None:
    """As if half a minute had passed since the worker died."""
    await session.execute(text("UPDATE jobs SET leased_until = created_at WHERE lease IS NOT NULL"))


@contextmanager
def client(url: str, key: str) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as api:
        yield api


@contextmanager
def worker(
    data_dir: Path, models_dir: Path, shared: dict[str, str]
) -> Generator[subprocess.Popen[bytes]]:
    """Run `galley worker` in a process of its own."""
    where = {"GALLEY_DATA_DIR": str(data_dir), "GALLEY_MODELS_DIR": str(models_dir)}
    command = [Path(sys.executable).with_name("galley"), "worker"]
    with (data_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | where | shared, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
