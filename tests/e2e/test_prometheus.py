"""Prometheus itself, with our own files, watching two servers and a model's server that dies."""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.monitoring.files import FOLDER, queries
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Upstream, misbehaving

HELLO = {"role": "user", "content": "Hello"}
PATIENCE_S = 60.0


@dataclass
class Watched:
    """Two servers of one model, who watches them, and an address where no server is."""

    servers: list[LiveServer]
    upstream: Upstream
    prometheus: httpx2.Client
    nobody: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers now."""
        answer = self.prometheus.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]

    def firing(self, alert: str) -> set[str]:
        """The servers that an alert fires for."""
        alerts = self.prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
        return {
            found["labels"]["instance"]
            for found in alerts
            if found["labels"]["alertname"] == alert and found["state"] == "firing"
        }

    def post(self, server: LiveServer) -> int:
        """Ask a server something; returns the status."""
        return server.post("/v1/chat/completions", model="far", messages=[HELLO]).status_code


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def in_a_hurry(folder: Path, targets: list[str]) -> Path:
    """Our own files, with seconds for minutes; returns the configuration."""
    shutil.copytree(FOLDER, folder)
    for name, given in {
        "prometheus.yml": [(r"15s|10s", "1s"), (r"30s", "5s")],
        "alerts.yml": [(r"for: \d+[smh]", "for: 1s")],
        "servers.yml": [(r"    - .*", "\n".join(f"    - {target}" for target in targets))],
    }.items():
        text = (folder / name).read_text()
        for pattern, replacement in given:
            text, count = re.subn(pattern, replacement, text)
            assert count, pattern
        (folder / name).write_text(text)
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        upstream = stack.enter_context(misbehaving())
        servers = [stack.enter_context(_server(folder / name, upstream)) for name in ("1", "2")]
        for server in servers:
            server.until_ready()
        nobody, address = free_address(), free_address()
        targets = [server.url.removeprefix("http://") for server in servers]
        config = in_a_hurry(folder / "monitoring", [*targets, nobody])
        process = stack.enter_context(
            subprocess.Popen(
                [
                    "prometheus", f"--config.file={config}", "--log.level=warn",
                    f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
                ]
            )
        )  # fmt: skip
        stack.callback(process.terminate)
        client = stack.enter_context(httpx2.Client(base_url=f"http://{address}", timeout=30))
        watched = Watched(servers, upstream, client, nobody)
        until(lambda: _is_ready(client), "Prometheus does not start")
        up = 'up{job="galley"} == 1'
        until(lambda: len(watched.ask(up)) == 2, "it does not reach both servers")
        yield watched


def _server(folder: Path, upstream: Upstream) -> Any:
    far = ModelSettings(kind="chat", source=upstream.url)
    settings = make_settings(folder, folder, models={"far": far}, embedded_models=False)

    async def make_free() -> None:
        async with open_database(settings.database_url.get_secret_value()) as database:
            await Pricing(database.sessions).seed_free(["far"])

    asyncio.run(make_free())
    return serving(settings)


def _is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_server_that_does_not_answer_is_told_of(watched: Watched) -> None:
    until(lambda: watched.firing("GalleyServerDown"), "the alert does not fire")

    assert watched.firing("GalleyServerDown") == {watched.nobody}


def test_rates_are_recorded_over_all_servers(watched: Watched) -> None:
    rate = "job:galley_requests:rate5m"

    statuses: list[int] = []

    def asked() -> bool:
        statuses.extend(map(watched.post, watched.servers))
        found = watched.ask(f"{rate} > 0")
        return bool(found) and float(found[0]["value"][1]) > 0

    until(asked, "nothing is recorded")

    assert set(statuses) == {200}
    assert {row["metric"]["endpoint"] for row in watched.ask(f"job_endpoint:{rate[4:]}")} == {
        "chat"
    }


def test_the_dashboards_questions_are_answered(watched: Watched) -> None:
    def without_answer() -> list[str]:
        for server in watched.servers:
            watched.post(server)
        return [query for query in queries() if not watched.ask(query) and is_about_all(query)]

    until(lambda: not without_answer(), "a panel stays empty")


def is_about_all(query: str) -> bool:
    """Whether every server has something to say to it, and not only one in trouble."""
    rare = (
        "cache", "limit_refusals", "gpu", "errors", "queue_wait", "outcome!~", "jobs", "cost",
        "shed",
    )  # fmt: skip
    return not any(word in query for word in rare)


def test_an_alert_fires_when_a_models_server_dies_and_resolves_when_it_returns(
    watched: Watched,
) -> None:
    both = {server.url.removeprefix("http://") for server in watched.servers}
    assert watched.firing("GalleyBackendDown") == set()

    watched.upstream.close_port()
    assert {watched.post(server) // 100 for server in watched.servers} == {5}
    until(lambda: watched.firing("GalleyBackendDown") == both, "it does not fire")
    until(lambda: watched.firing("GalleyModelDown") == both, "it does not fire")

    watched.upstream.open_port()
    until(lambda: not watched.firing("GalleyBackendDown"), "it does not resolve")
    until(lambda: not watched.firing("GalleyModelDown"), "it does not resolve")
    assert {watched.post(server) for server in watched.servers} == {200}
