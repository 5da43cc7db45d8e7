"""`galley jobs` and `galley worker`."""

from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Galley
from tests.cli.office import admins, read, server
from tests.cli.program import Serving, environment, run

__all__ = ["admins", "server"]


@pytest.fixture
def job_id(server: Serving) -> str:
    """A job of the admin's."""
    key = server.env["GALLEY_BOOTSTRAP_KEY"]
    answer = httpx2.post(f"{server.base_url}/process", headers={"authorization": f"Bearer {key}"})
    return answer.json()["job_id"]


def test_a_job_is_watched_to_its_end_and_its_result_printed(admins: Galley, job_id: str) -> None:
    result = read(admins("jobs", "watch", job_id))
    job = read(admins("jobs", "watch", job_id, "--json"))

    assert result["totals"]["requests"] == 0
    assert (job["status"], job["result"]) == ("succeeded", result)


def test_jobs_are_listed(admins: Galley, job_id: str) -> None:
    admins("jobs", "watch", job_id)

    shown = admins("jobs", "ls")
    listed = read(admins("jobs", "ls", "--json", "--status", "succeeded", "--limit", "1"))
    others = read(admins("jobs", "ls", "--json", "--task", "embed"))

    assert job_id in shown.stdout
    assert "analyse_usage" in shown.stdout
    assert [job["id"] for job in listed] == [job_id]
    assert others == []


def test_cancelling_an_ended_job_leaves_it_as_it_is(admins: Galley, job_id: str) -> None:
    admins("jobs", "watch", job_id)

    said = admins("jobs", "cancel", job_id)

    assert said.stdout == f"{job_id} is succeeded.\n"
    assert read(admins("jobs", "cancel", job_id, "--json"))["status"] == "succeeded"


@pytest.mark.parametrize("word", ["watch", "cancel"])
def test_a_job_that_is_not_there_is_one_clear_line(admins: Galley, word: str) -> None:
    said = admins("jobs", word, "no-such-job")

    assert said.exit_code == 1
    assert "There is no such job." in said.stderr


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({}, "GALLEY_BROKER_URL"),
        ({"broker_url": "redis://127.0.0.1:1/0"}, "GALLEY_DATABASE_URL=postgresql"),
    ],
)
def test_a_worker_without_broker_or_shared_database_says_what_to_set(
    tmp_path: Path, settings: dict[str, str], cure: str
) -> None:
    said = run("worker", env=environment(tmp_path, embedded_models=False, **settings))

    assert said.returncode == 2
    assert cure in said.stderr
