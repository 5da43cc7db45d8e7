"""An experiment from its first request to the promotion, on two servers on loopback."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from galley.core.security import make_key
from galley.db.experiments import Clustered
from galley.db.keys import create_key
from galley.db.tables import ApiRequest, User
from galley.services.experiments import share
from tests.records import stored_requests
from tests.routers.office import Office, open_app
from tests.serving import make_settings
from tests.upstream import Call, Upstream, misbehaving, well
from tests.upstream_faults import cut_mid_stream

pytestmark = pytest.mark.anyio

USERS, REQUESTS, AT_ONCE = 400, 2_000, 16
CANARY = {"targets": {"big": 90, "small": 10}}


async def slowly(call: Call) -> None:
    """Answer well after a while, and one in ten times only half."""
    await asyncio.sleep(0.02)
    await (cut_mid_stream if call.body["seed"] % 10 == 0 else well)(call)


@pytest.fixture
def servers() -> Iterator[tuple[Upstream, Upstream]]:
    with misbehaving(slowly) as big, misbehaving() as small:
        yield big, small


@pytest.fixture
async def office(servers: tuple[Upstream, Upstream], tmp_path: Path) -> AsyncGenerator[Office]:
    models = {
        name: ModelSettings(kind="chat", source=server.url, context=1000)
        for name, server in zip(("big", "small"), servers, strict=True)
    }
    settings = make_settings(tmp_path, tmp_path, models=models, embedded_models=False)
    async with open_app(settings) as office:
        for name, price in (("big", 30_000_000), ("small", 10_000_000)):
            set_ = await office.admin.put(f"/v1/admin/prices/{name}", json={"prompt": price})
            assert set_.status_code == 200, set_.text
        while "loading" in (await office.admin.get("/health")).text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        assert (await office.admin.put("/v1/admin/routes/smart", json=CANARY)).status_code == 200
        yield office


async def hire(office: Office) -> Sequence[str]:
    """Add the users, whose ids are the same on every run, and so is what they are drawn."""
    keys = {f"01a1fd1e-df93-7326-9084-{n:012x}": make_key() for n in range(USERS)}
    async with office.runtime.database.sessions.begin() as session:
        session.add_all(
            User(id=user_id, email=f"{user_id}@example.org", name="Someone", tier="enterprise")
            for user_id in keys
        )
        await session.flush()
        for user_id, key in keys.items():
            await create_key(session, user_id=user_id, name="first", key=key)
    return list(keys.values())


async def ask_all(office: Office, keys: Sequence[str]) -> None:
    """Ask so many times, the users in turn, some at once; some say what they think of it."""
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(n: int) -> None:
        headers = {"authorization": f"Bearer {keys[n % USERS]}"}
        async with room:
            answer = await office.admin.post(
                "/v1/chat/completions", json=question(n), headers=headers
            )
            if n % 4 == 0 and "[DONE]" in answer.text:
                small = '"model":"small"' in answer.text
                said = await office.admin.post(
                    f"/v1/requests/{answer.headers['request-id']}/feedback",
                    json={"rating": "up" if small else "down"},
                    headers=headers,
                )
                assert said.status_code == 200, said.text

    await asyncio.gather(*map(ask, range(REQUESTS)))


def question(n: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    return {"model": "smart", "messages": messages, "seed": n, "stream": True}


async def results(office: Office, **query: str) -> dict[str, Any]:
    found = await office.admin.get("/v1/admin/routes/smart/results", params=query)
    assert found.status_code == 200, found.text
    return found.json()


def by_user(rows: Sequence[ApiRequest]) -> Mapping[str, list[ApiRequest]]:
    users: dict[str, list[ApiRequest]] = defaultdict(list)
    for row in rows:
        users[row.user_id].append(row)
    return users


@pytest.mark.slow
async def test_an_experiment_is_split_as_it_says_sticky_told_rightly_and_promoted_at_once(
    office: Office,
) -> None:
    began = datetime.now(UTC)
    keys = await hire(office)

    await ask_all(office, keys)
    rows = [row for row in await stored_requests(office.runtime.database) if row.route == "smart"]
    found = await results(office)

    assert len(rows) == REQUESTS
    users = by_user(rows)
    of_small = sum({row.arm for row in own} == {"small"} for own in users.values())
    assert all(len({row.arm for row in own}) == 1 for own in users.values())
    assert all(row.served_model == row.arm for row in rows)
    split = share(Clustered(USERS, USERS, of_small, of_small, of_small, USERS))
    assert split.low is not None
    assert split.high is not None
    assert split.low < 0.1 < split.high
    for arm in found["data"]:
        assert_right(arm, [row for row in rows if row.arm == arm["target"]])
    verdicts = [verdict.partition(":")[0] for verdict in found["verdicts"]]
    assert [verdict for verdict in verdicts if "answers" not in verdict] == [
        "small fails less often than big",
        "small costs less than big",
        "small is rated better than big",
    ]

    promoted = await office.admin.post("/v1/admin/routes/smart/promote", json={"target": "small"})
    served = Counter([await served_by(office, key) for key in keys[:50]])

    assert promoted.status_code == 200
    assert served == {"small": 50}
    after, since_it_began = await results(office), await results(office, since=began.isoformat())
    assert [arm["requests"] for arm in after["data"]] == [0, 50]
    assert sum(arm["requests"] for arm in since_it_began["data"]) == REQUESTS + 50


async def served_by(office: Office, key: str) -> str:
    headers = {"authorization": f"Bearer {key}"}
    answer = await office.admin.post("/v1/chat/completions", json=question(1), headers=headers)
    return json.loads(answer.text.split("\n\n")[0].removeprefix("data: "))["model"]


def assert_right(arm: Mapping[str, Any], rows: Sequence[ApiRequest]) -> None:
    """Hold one target's results to its rows."""
    whole = sorted(row.response_time_ms or 0.0 for row in rows if row.state == "completed")
    failed = sum(row.state == "failed" for row in rows)
    assert (arm["requests"], arm["users"]) == (len(rows), len(by_user(rows)))
    assert arm["errors"] == failed
    assert arm["prompt_tokens"] == sum(row.prompt_tokens for row in rows)
    assert arm["completion_tokens"] == sum(row.completion_tokens for row in rows)
    expected = {
        "error_rate": failed / len(rows),
        "latency_mean_ms": fmean(whole),
        "cost_usd_per_request": fmean(row.cost for row in rows) / 1e6,
        "feedback_score": 1.0 if arm["target"] == "small" else -1.0,
    }
    for name, value in expected.items():
        assert arm[name]["value"] == pytest.approx(value), name
        assert arm[name]["low"] <= arm[name]["value"] <= arm[name]["high"], name
    assert arm["latency_p50_ms"] == whole[ceil(0.5 * len(whole)) - 1]
    assert arm["latency_p95_ms"] == whole[ceil(0.95 * len(whole)) - 1]
    assert 0 < arm["first_token_p50_ms"] <= arm["latency_p95_ms"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("nobody/results", 404),
        ("smart/results?since=yesterday", 422),
        ("smart/results?since=2026-01-01T00:00:00", 422),
        ("smart/results?since=0001-01-01T00:00:00Z", 200),
        ("smart/results?since=9999-12-31T23:59:59Z", 200),
    ],
)
async def test_of_results_only_those_that_make_no_sense_are_refused(
    path: str, status: int, office: Office
) -> None:
    answer: httpx2.Response = await office.admin.get(f"/v1/admin/routes/{path}")

    assert answer.status_code == status, answer.text
