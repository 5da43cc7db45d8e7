"""The machine's clock is set, an hour on and an hour back: limits, logins, jobs, ids, streams."""

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import User, utc_now
from tests.cli.program import environment, run
from tests.databases import visit
from tests.lone_server import CHAT, HELLO, LoneServer, database_url, lone_server
from tests.upstream import in_two_parts, well
from tests.waiting import until

FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
LIBRARY = next((p for f in FOLDERS for p in Path(f).rglob("libfaketimeMT.so.1")), None)
HOUR_S = 3600
LIMIT = 5
EXPORT = {"task": "export", "params": {"format": "jsonl"}}


@dataclass
class Clock:
    """The server's clock, which may be set while it runs; what measures spans goes on as it was."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program go by it."""
        assert LIBRARY, "libfaketime is missing: scripts/test-system-packages installs it"
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_s: int) -> None:
        """Set it, so far from the right time."""
        self.file.write_text(f"{offset_s:+d}\n")


@pytest.mark.slow
@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S], ids=["on", "back"])
def test_a_clock_that_is_set_and_set_right_again_ends_no_limit_and_breaks_no_answer(
    tmp_path: Path, offset_s: int
) -> None:
    clock = Clock(tmp_path / "clock")
    clock.set(0)
    with lone_server(tmp_path, **clock.environment) as server, server.client() as api:
        visit(database_url(tmp_path), make_users_older)
        limited, first = limited_key(api), log_in(api, server)
        used_up = [ask(server, limited).status_code for _ in range(LIMIT)]
        answers: list[httpx2.Response] = []
        for off_s, logged_in in ((offset_s, 401), (0, 200)):
            answers += answers_over_a_jump(server, clock, off_s)
            over, job = ask(server, limited), api.post("/process", json=EXPORT)
            path = f"/v1/jobs/{job.json()['job_id']}"
            until(lambda path=path: api.get(path).json()["status"] == "succeeded")

            assert abs(answers[-1].json()["created"] - time.time() - off_s) < 60
            assert over.status_code == 429
            assert 0 < int(over.headers["retry-after"]) <= 60
            assert me(server, first["access_token"]) == logged_in
            assert me(server, log_in(api, server)["access_token"]) == 200
        refresh = {"refresh_token": first["refresh_token"]}
        refreshed = api.post("/v1/auth/refresh", json=refresh).status_code
        status, states = server.node.stop(), server.states()
    audit = run("audit", env=environment(tmp_path))

    ids = [answer.headers["request-id"] for answer in answers]
    assert used_up == [200] * LIMIT
    assert refreshed == 200
    assert len(set(ids)) == len(ids)
    assert {states[request_id] for request_id in ids} == {"completed"}
    assert "open" not in states.values()
    assert status == 0
    assert audit.returncode == 0, audit.stdout + audit.stderr


async def make_users_older(session: AsyncSession) -> None:
    """As if they had been there since yesterday: tokens from before a user's are not good."""
    await session.execute(update(User).values(tokens_from=utc_now() - timedelta(days=1)))


def limited_key(api: httpx2.Client) -> str:
    """The key of a new user who may ask so many times a minute."""
    user = {"email": "a@example.org", "name": "A", "tier": "enterprise"}
    user |= {"limits": {"requests_per_minute": LIMIT}}
    made = api.post("/v1/admin/users", json=user).raise_for_status().json()
    keys = f"/v1/admin/users/{made['id']}/keys"
    return api.post(keys, json={"name": "k"}).raise_for_status().json()["key"]


def log_in(api: httpx2.Client, server: LoneServer) -> dict[str, Any]:
    return api.post("/v1/auth/token", json={"api_key": server.key}).raise_for_status().json()


def me(server: LoneServer, token: str) -> int:
    with server.node.client(token) as api:
        return api.get("/v1/me").status_code


def ask(server: LoneServer, key: str) -> httpx2.Response:
    with server.node.client(key) as api:
        return api.post(CHAT, json=HELLO)


def answers_over_a_jump(
    server: LoneServer, clock: Clock, offset_s: int
) -> tuple[httpx2.Response, httpx2.Response]:
    """Set the clock in the middle of a stream; returns that stream, and an answer after it."""
    go_on = in_two_parts(server.far)
    asked = HELLO | {"stream": True}
    with server.client() as api, api.stream("POST", CHAT, json=asked) as streamed:
        pieces = streamed.iter_text()
        said = next(pieces)
        clock.set(offset_s)
        go_on()
        said += "".join(pieces)
    assert said.endswith("data: [DONE]\n\n")
    server.far.behaviour = well
    return streamed, ask(server, server.key)
