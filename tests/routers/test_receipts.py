"""Receipts of requests to models of other servers, which answer or do not."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings, RouteSettings
from galley.db.tables import utc_now
from galley.services.retention import RetentionService
from tests.routers.office import Client, Office, Person, open_app
from tests.serving import make_settings
from tests.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Upstream, misbehaving
from tests.upstream_faults import internal_error

pytestmark = pytest.mark.anyio

SECRET = "sk-far-and-secret"
LIMITS = {"requests_per_minute": 60, "tokens_per_day": 10_000, "cost_per_day": 5_000_000}


@pytest.fixture
def far() -> Iterator[Upstream]:
    with misbehaving() as server:
        yield server


@pytest.fixture
async def office(
    far: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Office]:
    monkeypatch.setenv("FAR_KEY", SECRET)
    model = ModelSettings(kind="chat", source=far.url, api_key_env="FAR_KEY", context=1000)
    settings = make_settings(
        tmp_path,
        tmp_path,
        embedded_models=False,
        models={"big": model, "small": model},
        routes={
            "safe": RouteSettings(targets={"big": 1}, fallbacks=("small",)),
            "smart-*": RouteSettings(targets={"big": 1, "small": 0}),
        },
    )
    async with open_app(settings) as office:
        for name in ("big", "small"):
            price = {"prompt": 1_000_000, "completion": 2_000_000}
            set_ = await office.admin.put(f"/v1/admin/prices/{name}", json=price)
            assert set_.status_code == 200, set_.text
        while "loading" in (await office.admin.get("/health")).text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org", limits=LIMITS)


async def ask(client: Client, model: str, **more: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": model, "messages": messages, "max_tokens": 10, "stream": True}
    return await client.post("/v1/chat/completions", json=body | more)


async def receipt(client: Client, answer: httpx2.Response) -> dict[str, Any]:
    """The receipt of `answer`, once it is there: nobody waits for that of a refusal."""
    async with asyncio.timeout(5):
        while True:
            found = await client.get(f"/v1/requests/{answer.headers['request-id']}")
            if found.status_code == 200 and found.json()["state"] != "open":
                return found.json()
            await asyncio.sleep(0.01)


def limits(found: Mapping[str, Any]) -> dict[str, tuple[int, int, int, bool]]:
    return {
        f"{row['metric']} per {row['period']}": (
            row["limit"],
            row["reserved"],
            row["remaining"],
            row["refused"],
        )
        for row in found["detail"]["limits"]
        if row["subject"] == "user"
    }


async def test_an_answer_tells_its_limits_attempts_price_and_times(ada: Person) -> None:
    answer = await ask(ada.client, "big", user="me")

    found = await receipt(ada.client, answer)

    assert (found["state"], found["status"], found["attempts"]) == ("completed", 200, 1)
    assert (found["route"], found["arm"], found["cache"]) == (None, None, None)
    assert found["ignored_fields"] == ["user"]
    assert found["cost"] == PROMPT_TOKENS + 2 * COMPLETION_TOKENS
    assert found["cost_usd"] == f"0.{found['cost']:06d}"
    assert (found["price"]["id"], found["price"]["completion"]) == (found["price_id"], 2_000_000)
    told = limits(found)
    assert told["requests per minute"] == (60, 1, 59, False)
    limit, reserved, remaining, _ = told["tokens per day"]
    assert remaining == limit - reserved
    assert told["cost per day"][0] == 5_000_000
    (attempt,) = found["detail"]["attempts"]
    assert (attempt["model"], attempt["replica"], attempt["breaker"], attempt["outcome"]) == (
        "big", 0, "closed", "ok",
    )  # fmt: skip
    times = found["detail"]["timings"]
    assert 0 < times["admitted_ms"] < times["first_token_ms"] <= times["total_ms"]
    assert 0 <= times["queued_ms"] < times["first_token_ms"] - times["admitted_ms"]
    assert 0 < attempt["ms"] <= times["total_ms"]
    assert (found["note"], found["feedback"]) == (None, None)


async def test_failures_before_an_answer_are_told_without_the_servers_address_or_key(
    far: Upstream, office: Office
) -> None:
    far.behaviours["big"] = internal_error
    answer = await ask(office.admin, "safe")

    found = await receipt(office.admin, answer)

    assert (found["served_model"], found["attempts"]) == ("small", 2)
    outcomes = [(a["model"], a["outcome"]) for a in found["detail"]["attempts"]]
    assert outcomes == [("big", "engine_error"), ("small", "ok")]
    assert str(far.port) not in str(found)
    assert SECRET not in str(found)


async def test_what_failed_for_good_has_its_receipt(far: Upstream, office: Office) -> None:
    far.behaviour = internal_error
    answer = await ask(office.admin, "safe")

    found = await receipt(office.admin, answer)

    assert (found["state"], found["status"], found["error_code"]) == (
        "failed", 502, "engine_error",
    )  # fmt: skip
    assert len(found["detail"]["attempts"]) == found["attempts"] == 3
    assert found["cost"] == 0


async def test_a_refusal_says_which_limit_was_in_the_way(office: Office) -> None:
    ada = await office.hire("ada@example.org", limits={"tokens_per_minute": 5} | LIMITS)

    found = await receipt(ada.client, await ask(ada.client, "big"))

    assert (found["state"], found["status"]) == ("refused", 429)
    told = limits(found)
    assert told["tokens per minute"][0] == 5
    assert [name for name, (*_, refused) in told.items() if refused] == ["tokens per minute"]
    assert found["detail"]["attempts"] == []
    assert found["detail"]["timings"]["admitted_ms"] is None


async def test_the_route_and_the_arm_are_told(office: Office) -> None:
    answer = await ask(office.admin, "smart-5")

    found = await receipt(office.admin, answer)

    told = (found["model"], found["route"], found["arm"], found["served_model"])
    assert told == ("smart-5", "smart-*", "big", "big")


async def test_admins_see_the_receipts_of_all_and_others_only_their_own(
    office: Office, ada: Person
) -> None:
    bob = await office.hire("bob@example.org")
    answer = await ask(ada.client, "big")
    path = f"/v1/requests/{answer.headers['request-id']}"
    narrow = await office.narrow(office.admin, "usage")

    theirs, mine, admins, without_scope = [
        await client.get(path) for client in (bob.client, ada.client, office.admin, narrow)
    ]

    assert [a.status_code for a in (theirs, mine, admins, without_scope)] == [404, 200, 200, 404]
    assert theirs.json() == {"detail": "There is no such request."}
    assert admins.json() == mine.json()
    assert mine.json()["user_id"] == ada.id


async def test_when_the_details_are_gone_the_row_is_still_told_and_the_receipt_says_so(
    office: Office, ada: Person
) -> None:
    answer = await ask(ada.client, "big")
    before = await receipt(ada.client, answer)

    later = utc_now() + timedelta(days=8)
    retention = RetentionService(
        office.runtime.database.sessions, 0, receipt_days=7, clock=lambda: later
    )
    assert await retention.delete_old_receipts() == 1
    key = ada.client.headers["authorization"].removeprefix("Bearer ")
    caller = await office.runtime.accounts.authenticate(key)
    found = await office.runtime.receipts.of(caller, before["id"], now=later)

    assert found.detail is None
    assert found.note == "The details are kept for 7 days, and these were deleted."
    after = await receipt(ada.client, answer)
    assert after | {"detail": before["detail"], "note": None} == before


async def test_feedback_is_kept_and_shown_and_the_latest_counts(ada: Person) -> None:
    answer = await ask(ada.client, "big")
    path = f"/v1/requests/{answer.headers['request-id']}/feedback"
    began = datetime.now(UTC)

    first = await ada.client.post(path, json={"rating": "down", "comment": "Wrong."})
    latest = await ada.client.post(path, json={"score": 0.5})

    assert (first.json()["score"], first.json()["comment"]) == (-1.0, "Wrong.")
    found = (await receipt(ada.client, answer))["feedback"]
    assert found == latest.json()
    assert (found["score"], found["comment"]) == (0.5, None)
    assert began <= datetime.fromisoformat(found["created_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"comment": "Good."}, {"score": 1.5}, {"score": "1"}, {"rating": "sideways"},
        {"score": 1, "rating": "up"}, {"rating": "up", "comment": "x" * 2001},
        {"rating": "up", "unheard": 1}, {"rating": "up", "comment": "a\0b"},
    ],
    ids=str,
)  # fmt: skip
async def test_feedback_that_makes_no_sense_is_refused(body: dict[str, Any], ada: Person) -> None:
    answer = await ask(ada.client, "big")

    refused = await ada.client.post(
        f"/v1/requests/{answer.headers['request-id']}/feedback", json=body
    )

    assert refused.status_code == 422, refused.text


async def test_nobody_says_anything_of_the_requests_of_others(office: Office, ada: Person) -> None:
    answer = await ask(ada.client, "big")
    path = f"/v1/requests/{answer.headers['request-id']}/feedback"

    refused = await office.admin.post(path, json={"rating": "up"})

    assert refused.status_code == 404
    assert (await receipt(ada.client, answer))["feedback"] is None
