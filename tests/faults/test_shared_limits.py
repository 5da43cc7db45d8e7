"""Two servers over one PostgreSQL and one Redis: limits between them, and Redis that goes away."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.settings import Settings
from galley.db.tables import Price
from tests.redis_server import RedisServer
from tests.serving import LiveServer, make_settings, serving

MODEL = "all-minilm-l6-v2"
CLIENTS = 64
BODY = {"model": MODEL, "input": "hello"}

Answer = tuple[int, dict[str, Any]]


@pytest.fixture
def two_servers(
    models_dir: Path, tmp_path: Path, postgresql_url: str, redis_server: RedisServer
) -> Iterator[list[LiveServer]]:
    """Both have the same price for a text, which was set before they started."""

    def settings(name: str, **model: Any) -> Settings:
        return make_settings(
            tmp_path / name, models_dir, database_url=postgresql_url,
            redis_url=redis_server.url, embedded_models=False, **model,
        )  # fmt: skip

    async def price(session: AsyncSession) -> None:
        session.add(Price(model=MODEL, unit=1_000))

    with serving(settings("before")) as server:
        server.write(price)
    model = {"models": {MODEL: EMBEDDED_MODELS[MODEL]}}
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(settings(n, **model))) for n in ("one", "two")]
        for server in servers:
            server.until_ready()
        yield servers


@contextmanager
def clients(servers: list[LiveServer], key: str) -> Generator[list[httpx2.Client]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                httpx2.Client(
                    base_url=servers[n % len(servers)].url,
                    headers={"authorization": f"Bearer {key}"},
                    timeout=30,
                )
            )
            for n in range(CLIENTS)
        ]


def ask_until_refused(servers: list[LiveServer], key: str) -> list[Answer]:
    """All clients at once, each until it is refused; what they were answered."""
    answers: list[Answer] = []
    begin = threading.Barrier(CLIENTS)

    def ask(client: httpx2.Client) -> None:
        begin.wait()
        while True:
            answer = client.post("/v1/embeddings", json=BODY)
            answers.append((answer.status_code, answer.json()))
            if answer.status_code != 200:
                return

    with clients(servers, key) as made, ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(ask, made))
    return answers


def test_clients_of_two_servers_are_let_in_exactly_as_often_as_the_limit_says(
    two_servers: list[LiveServer],
) -> None:
    key = two_servers[0].key_of_new_user(limits={"requests_per_minute": 100})

    answers = ask_until_refused(two_servers, key)

    assert Counter(status for status, _ in answers) == {200: 100, 429: CLIENTS}


def test_settled_tokens_are_never_above_the_limit(two_servers: list[LiveServer]) -> None:
    key = two_servers[0].key_of_new_user(limits={"tokens_per_minute": 400})

    answers = ask_until_refused(two_servers, key)

    used = sum(body["usage"]["total_tokens"] for status, body in answers if status == 200)
    assert {status for status, _ in answers} == {200, 429}
    assert used <= 400


def test_spending_is_never_above_the_budget(two_servers: list[LiveServer]) -> None:
    key = two_servers[0].key_of_new_user(limits={"cost_per_day": 50_500})

    answers = ask_until_refused(two_servers, key)

    assert Counter(status for status, _ in answers) == {200: 50, 429: CLIENTS}
    refusals = [body["error"]["code"] for status, body in answers if status == 429]
    assert set(refusals) == {"insufficient_quota"}


def test_spending_is_never_above_the_credit(two_servers: list[LiveServer]) -> None:
    key = two_servers[0].key_of_new_user()
    headers = {"authorization": f"Bearer {key}"}
    user_id = two_servers[1].client.get("/v1/me", headers=headers).json()["user_id"]
    credit = f"/v1/admin/users/{user_id}/credit"

    two_servers[0].client.post(credit, json={"amount": 30_500})
    answers = ask_until_refused(two_servers, key)
    topped_up = two_servers[1].client.post(credit, json={"amount": 10_000}).json()
    more = ask_until_refused(two_servers, key)

    assert topped_up["credit_left"] == 10_500
    assert Counter(status for status, _ in answers) == {200: 30, 429: CLIENTS}
    assert Counter(status for status, _ in more) == {200: 10, 429: CLIENTS}


@pytest.mark.parametrize("dead_s", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_without_redis_nobody_waits_or_fails_and_readiness_says_so(
    two_servers: list[LiveServer], redis_server: RedisServer, dead_s: float
) -> None:
    server = two_servers[0]
    key = server.key_of_new_user(limits={"requests_per_minute": 1_000_000})
    with steady_load(server, key) as seen:
        time.sleep(1)
        redis_server.stop()
        until(lambda: limits_part(server) != "ok")
        lost = server.client.get("/health/ready")
        time.sleep(dead_s)
        redis_server.start()
        until(lambda: limits_part(server) == "ok")
        time.sleep(0.5)

    assert (lost.status_code, lost.json()["status"]) == (200, "degraded")
    assert {status for status, _ in seen} == {200}
    assert max(seconds for _, seconds in seen) < 1
    assert len(seen) > 100


def test_without_redis_each_server_lets_in_what_the_limit_says_and_no_more(
    two_servers: list[LiveServer], redis_server: RedisServer
) -> None:
    key = two_servers[0].key_of_new_user(limits={"requests_per_minute": 30})
    redis_server.stop()
    try:
        answers = [ask_until_refused([server], key) for server in two_servers]
    finally:
        redis_server.start()

    for of_one in answers:
        assert Counter(status for status, _ in of_one) == {200: 30, 429: CLIENTS}


@contextmanager
def steady_load(server: LiveServer, key: str) -> Generator[list[tuple[int, float]]]:
    """Four clients that ask all the time; gives the status and duration of each answer."""
    seen: list[tuple[int, float]] = []
    stop = threading.Event()

    def ask() -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=server.url, headers=headers, timeout=30) as client:
            for _ in count():
                if stop.is_set():
                    return
                began = time.perf_counter()
                status = client.post("/v1/embeddings", json=BODY).status_code
                seen.append((status, time.perf_counter() - began))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def limits_part(server: LiveServer) -> str:
    return server.client.get("/health").json()["parts"]["limits"]


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_key_revoked_at_one_server_opens_nothing_at_the_other(
    two_servers: list[LiveServer],
) -> None:
    here, there = two_servers
    made = here.post("/v1/keys", name="short-lived").json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert there.client.get("/v1/models", headers=headers).status_code == 200

    here.client.delete(f"/v1/keys/{made['id']}")

    until(lambda: there.client.get("/v1/models", headers=headers).status_code == 401, seconds=2)
