"""The real nginx with deploy/nginx.conf: what reaches whom, when, and how often."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.nginx import Front, nginx
from tests.node import free_port
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Call, Upstream, in_two_parts, misbehaving
from tests.upstream_faults import cut_before_headers, hang_mid_stream

ASK = {"model": "far", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LiveServer, Front, Upstream]]:
    """A server behind nginx, and the model's server behind that."""
    folder = tmp_path_factory.mktemp("behind")
    with misbehaving() as far:
        models = {"far": {"kind": "chat", "source": far.url}}
        settings = make_settings(folder, folder, models=models, embedded_models=False)
        asyncio.run(_make_free(settings.database_url.get_secret_value()))
        with (
            serving(settings) as server,
            nginx([int(server.url.rpartition(":")[2])], folder / "nginx") as front,
        ):
            yield server, front, far


async def _make_free(url: str) -> None:
    async with open_database(url) as database:
        await Pricing(database.sessions).seed_free(["far"])


def client(front: Front, key: str = "none") -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=front.url, verify=front.trust, headers=headers, timeout=30)


def test_the_pieces_of_a_stream_arrive_as_they_are_made(
    behind: tuple[LiveServer, Front, Upstream],
) -> None:
    server, front, far = behind
    go_on = in_two_parts(far)
    with client(front, server.key) as api, api.stream("POST", CHAT, json=ASK) as answer:
        pieces = answer.iter_text()
        said = next(pieces)  # while the last is not made yet
        go_on()
        said += "".join(pieces)

    assert answer.status_code == 200
    assert said.endswith("data: [DONE]\n\n")


def test_who_hangs_up_stops_the_work(behind: tuple[LiveServer, Front, Upstream]) -> None:
    server, front, far = behind
    far.behaviour = hang_mid_stream

    with client(front, server.key) as api, api.stream("POST", CHAT, json=ASK) as answer:
        next(answer.iter_text())

    assert server.row(answer)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/embeddings", 10_000_000, 400),
        ("/v1/embeddings", 10_000_001, 413),
        ("/api/v1/files", 10_000_001, 400),
        (CHAT, 64_000_000, 400),
        (CHAT, 64_000_001, 413),
        ("/classify", 64_000_001, 413),
    ],
)
def test_bodies_are_refused_by_size_as_the_route_has_it(
    behind: tuple[LiveServer, Front, Upstream], path: str, size: int, status: int
) -> None:
    server, front, _ = behind

    with client(front, server.key) as api:
        answer = api.post(path, content=b"x" * size)

    assert answer.status_code == status
    if status == 413:
        assert answer.json()["error"]["code"] == "request_too_large"


def test_plain_http_leads_to_tls_and_metrics_stay_inside(
    behind: tuple[LiveServer, Front, Upstream],
) -> None:
    _, front, _ = behind

    moved = httpx2.post(f"{front.plain_url}{CHAT}", json=ASK, follow_redirects=False)
    with client(front) as api:
        metrics = api.get("/metrics")

    assert moved.status_code == 308
    assert moved.headers["location"].startswith("https://")
    assert metrics.status_code == 200  # this is that machine


@pytest.mark.parametrize(("method", "asked"), [("POST", 1), ("GET", 2)])
def test_what_a_server_may_have_done_before_it_went_away_is_asked_again_only_if_that_is_harmless(
    tmp_path: Path, method: str, asked: int
) -> None:
    with (
        misbehaving(cut_before_headers) as one,
        misbehaving(cut_before_headers) as two,
        nginx([one.port, two.port], tmp_path / "nginx") as front,
        client(front) as api,
    ):
        answer = api.request(method, "/v1/models", content=b"{}")

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "server_gone"
    assert len(one.calls) + len(two.calls) == asked


def test_a_server_that_is_not_there_costs_no_request(tmp_path: Path) -> None:
    async def answer(call: Call) -> None:
        await call.whole(200, call.body)

    with (
        misbehaving(answer) as there,
        nginx([free_port(), there.port], tmp_path / "nginx") as front,
        client(front) as api,
    ):
        answers = [api.post(CHAT, json={"n": n}).json() for n in range(6)]

    assert answers == [{"n": n} for n in range(6)]
