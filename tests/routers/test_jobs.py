"""Jobs over HTTP: begun, watched, cancelled; and nobody sees those of others."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.routers.office import Client, Office, Person, open_app
from tests.serving import make_settings

pytestmark = pytest.mark.anyio

ALIASES = ["/process", "/v1/process", "/api/process", "/api/v1/process"]
JSON = {"content-type": "application/json"}
ANALYSIS = {"task": "analyse_usage", "params": {"days": 7}}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    settings = make_settings(tmp_path, tmp_path, embedded_models=False, job_queue=6)
    async with open_app(settings) as office:
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org")


@pytest.fixture
async def bob(office: Office) -> Person:
    return await office.hire("bob@example.org")


async def begin(client: Client, **body: Any) -> str:
    answer = await client.post("/v1/process", json=body or ANALYSIS)
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


async def watch(client: Client, job_id: str, **headers: str) -> list[tuple[int, str, Any]]:
    """Watch a job to its end."""
    answer = await client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    return [_event(event) for event in events if not event.startswith(":")]


def _event(text: str) -> tuple[int, str, Any]:
    number, name, data = text.split("\n")
    return (
        int(number.removeprefix("id: ")),
        name.removeprefix("event: "),
        orjson.loads(data.removeprefix("data: ")),
    )


@pytest.mark.parametrize("path", ALIASES)
async def test_process_answers_to_the_letter_with_and_without_a_body(
    ada: Person, path: str
) -> None:
    for body in (b"", b"null", b"{}", orjson.dumps(ANALYSIS)):
        answer = await ada.client.post(path, content=body, headers=JSON if body else {})

        job_id = answer.json()["job_id"]
        assert answer.status_code == 202
        assert answer.json() == {"job_id": job_id, "status": "queued"}
        assert answer.headers["location"] == f"/v1/jobs/{job_id}"
        job = (await ada.client.get(answer.headers["location"])).json()
        assert job["task"] == "analyse_usage"
        assert job["request_id"] == answer.headers["request-id"]


async def test_a_job_is_done_after_its_answer_and_can_be_watched(ada: Person) -> None:
    job_id = await begin(ada.client)

    events = await watch(ada.client, job_id)

    names = [name for _, name, _ in events]
    assert (names[0], names[-1]) == ("state", "end")
    assert events[-1][2]["status"] == "succeeded"
    assert events[-1][2]["result"]["totals"]["requests"] == 0
    lines = [data["event"] for _, name, data in events if name == "log"]
    known = [line["event"] for line in events[0][2]["log"]]
    assert known + lines == ["queued", "started", "ended"]


async def test_who_comes_late_sees_the_state_and_the_end(ada: Person) -> None:
    job_id = await begin(ada.client)
    first = await watch(ada.client, job_id)

    late = await watch(ada.client, job_id)
    back = await watch(ada.client, job_id, **{"last-event-id": "1"})

    assert [name for _, name, _ in late] == ["state", "end"]
    assert late[-1] == first[-1]
    assert [name for _, name, _ in back] == ["state", "log", "log", "end"]


async def test_an_idempotency_key_gives_the_same_job(ada: Person, bob: Person) -> None:
    headers = {"idempotency-key": "order-66"}

    first = await ada.client.post("/process", json=ANALYSIS, headers=headers)
    again = await ada.client.post("/process", json=ANALYSIS, headers=headers)
    other = await ada.client.post("/process", json={"task": "export"}, headers=headers)
    bobs = await bob.client.post("/process", json={"task": "export"}, headers=headers)

    assert again.json()["job_id"] == first.json()["job_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert other.status_code == 409
    assert "idempotency key" in other.json()["detail"]
    assert bobs.status_code == 202


async def test_two_owners_do_not_cross_anywhere(ada: Person, bob: Person) -> None:
    job_id = await begin(ada.client)
    await watch(ada.client, job_id)

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        for known in (job_id, job_id.upper(), "nonsense"):
            answer = await bob.client.request(method, f"/v1/jobs/{known}{path}")
            assert answer.status_code == 404, answer.text
    assert (await bob.client.get("/v1/jobs")).json()["data"] == []
    assert (await ada.client.get(f"/v1/jobs/{job_id}")).json()["status"] == "succeeded"


async def test_jobs_are_listed_by_status_and_task(ada: Person) -> None:
    jobs = [await begin(ada.client) for _ in range(2)]
    jobs.append(await begin(ada.client, task="export"))
    for job_id in jobs:
        await watch(ada.client, job_id)

    listed = (await ada.client.get("/v1/jobs", params={"limit": 2})).json()
    rest = (await ada.client.get("/v1/jobs", params={"after": listed["next_after"]})).json()
    exports = (await ada.client.get("/v1/jobs", params={"task": "export"})).json()
    running = (await ada.client.get("/v1/jobs", params={"status": "running"})).json()

    assert [job["id"] for job in listed["data"] + rest["data"]] == jobs[::-1]
    assert (listed["has_more"], rest["has_more"], rest["next_after"]) == (True, False, None)
    assert [job["id"] for job in exports["data"]] == [jobs[2]]
    assert running["data"] == []


async def test_an_ended_job_is_deleted(ada: Person) -> None:
    job_id = await begin(ada.client)
    await watch(ada.client, job_id)

    gone = await ada.client.delete(f"/v1/jobs/{job_id}")

    assert gone.json()["deleted"] is True
    assert (await ada.client.get(f"/v1/jobs/{job_id}")).status_code == 404


async def test_too_many_jobs_are_refused_until_some_are_done(office: Office, ada: Person) -> None:
    answers = await asyncio.gather(*(ada.client.post("/process") for _ in range(12)))

    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} <= {202, 429}
    for answer in refused:
        assert "6 jobs of yours are waiting" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
    for answer in answers:
        if answer.status_code == 202:
            await watch(ada.client, answer.json()["job_id"])
    assert (await ada.client.post("/process")).status_code == 202


async def test_an_export_is_a_file_of_ones_own_requests(
    office: Office, ada: Person, bob: Person
) -> None:
    for person, model in ((ada, "=cmd()"), (ada, "b"), (bob, "c")):
        await person.client.post("/v1/embeddings", json={"model": model, "input": "x"})
    await office.runtime.meter._ledger.aclose()

    made = {}
    for form in ("csv", "jsonl"):
        job_id = await begin(ada.client, task="export", params={"format": form, "days": 1})
        result = (await watch(ada.client, job_id))[-1][2]["result"]
        content = await ada.client.get(f"/v1/files/{result['file_id']}/content")
        made[form] = content.text.splitlines()
        others = await bob.client.get(f"/v1/files/{result['file_id']}/content")
        assert (result["requests"], result["bytes"]) == (2, len(content.content))
        assert others.status_code == 404

    rows = [orjson.loads(line) for line in made["jsonl"]]
    assert [row["model"] for row in rows] == ["=cmd()", "b"]
    assert made["csv"][0].startswith("id,created_at,state,status,error_code,endpoint,model")
    assert [line.split(",")[6] for line in made["csv"][1:]] == ["'=cmd()", "b"]


async def test_an_analysis_counts_what_was_asked(office: Office, ada: Person, bob: Person) -> None:
    for person in (ada, ada, bob):
        await person.client.post("/v1/embeddings", json={"model": "none", "input": "x"})
    await office.runtime.meter._ledger.aclose()

    job_id = await begin(ada.client)
    result = (await watch(ada.client, job_id))[-1][2]["result"]

    assert result["totals"]["requests"] == 2
    assert result["totals"]["success_rate"] == 0.0
    assert result["errors"] == [{"code": "model_not_found", "requests": 2, "percent": 100.0}]
    assert [row["endpoint"] for row in result["by_endpoint"]] == ["embeddings"]
    assert len(result["by_day"]) == 1
    assert result["busiest_hour"]["requests"] == 2
    assert result["latency_ms"] is None


BAD: dict[str, tuple[dict[str, Any], int]] = {
    "an unknown task": ({"task": "rm -rf"}, 422),
    "a task that is a list": ({"task": ["export"]}, 422),
    "an unknown field": ({"task": "export", "priority": 9}, 422),
    "params that are a list": ({"params": []}, 422),
    "an unknown param": ({"params": {"user_id": "x"}}, 422),
    "days of a thousand years": ({"params": {"days": 365_000}}, 422),
    "days of thirty digits": ({"params": {"days": 10**30}}, 422),
    "an unknown param of thirty digits": ({"task": "export", "params": {"x": -(10**30)}}, 422),
    "101 documents": ({"task": "index_documents", "params": {"documents": ["x"] * 101}}, 422),
    "a file that is not there": ({"task": "embed", "params": {"file_id": "file-" + "0" * 32}}, 404),
    "a file by its path": ({"task": "embed", "params": {"file_id": "../../etc/passwd"}}, 404),
    "a webhook of one word": ({"webhook": {"url": "hook"}}, 400),
    "a webhook without tls": ({"webhook": {"url": "http://example.org/"}}, 400),
    "a webhook at home": ({"webhook": {"url": "https://[::ffff:10.0.0.1]/"}}, 400),
    "a webhook to the cloud's secrets": ({"webhook": {"url": "https://169.254.169.254/"}}, 400),
    "a webhook with a line break": ({"webhook": {"url": "https://example.org/\r\nx: y"}}, 422),
    "a short secret": ({"webhook": {"url": "https://example.org/", "secret": "short"}}, 422),
    "a secret of zeros": ({"webhook": {"url": "https://a.org/", "secret": "A" * 33}}, 400),
}


@pytest.mark.parametrize(("body", "status"), BAD.values(), ids=BAD)
async def test_a_job_that_cannot_be_is_refused_and_leaves_nothing(
    ada: Person, body: dict[str, Any], status: int
) -> None:
    answer = await ada.client.post("/v1/process", json=body)

    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    assert (await ada.client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"export"', b'{"task": "export", "task": "embed"}', b"\xff", b"[" * 9999]
)
async def test_a_body_that_is_no_request_is_refused(ada: Person, body: bytes) -> None:
    answer = await ada.client.post("/process", content=body, headers=JSON)

    assert answer.status_code == 422
    assert len(answer.content) < 2_000


async def test_an_idempotency_key_that_is_none_is_refused(ada: Person) -> None:
    for key in ("", "a b", "x" * 256, "ä", "a\tb"):
        headers = httpx2.Headers([(b"idempotency-key", key.encode())])

        answer = await ada.client.post("/process", headers=headers)

        assert answer.status_code == 422, key
        assert answer.json()["detail"][0]["loc"] == ["header", "idempotency-key"]


async def test_a_key_needs_the_scope_of_jobs_and_that_of_the_work(
    office: Office, ada: Person
) -> None:
    narrow = await office.narrow(ada.client, "jobs")
    without = await office.narrow(ada.client, "usage")

    assert (await narrow.post("/process")).status_code == 403
    assert (await narrow.get("/v1/jobs")).status_code == 200
    assert (await without.post("/process")).status_code == 403
    assert (await without.get("/v1/jobs")).status_code == 403


async def test_jobs_are_counted_in_the_metrics(office: Office, ada: Person) -> None:
    await watch(ada.client, await begin(ada.client))
    await office.runtime.jobs.runner._keeper.look()

    text = (await ada.client.get("/metrics")).text

    assert 'galley_jobs{status="succeeded"} 1.0' in text
    assert 'galley_jobs_ended_total{kind="analyse_usage",status="succeeded"} 1.0' in text
