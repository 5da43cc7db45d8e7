"""`galley worker`, a process of its own."""

import socket
import subprocess
from pathlib import Path

import httpx2

from tests.cli.program import PROGRAM, environment, run
from tests.node import free_port
from tests.redis_server import RedisServer
from tests.serving import make_settings, serving
from tests.waiting import until


def test_a_worker_shows_what_it_has_done_where_it_is_told_to(
    tmp_path: Path, postgresql_url_at_head: str, redis_server: RedisServer
) -> None:
    broker = redis_server.url.replace("unix://", "redis+socket://")
    shared = {
        "database_url": postgresql_url_at_head, "broker_url": broker, "embedded_models": False,
    }  # fmt: skip
    port, env = free_port(), environment(tmp_path, **shared)
    page = f"http://127.0.0.1:{port}/metrics"
    with (
        serving(make_settings(tmp_path, tmp_path, **shared)) as server,
        (tmp_path / "worker.log").open("wb") as log,
    ):
        command = [PROGRAM, "worker", "--metrics-port", str(port)]
        worker = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            accepted = server.client.post("/process")
            job = f"/v1/jobs/{accepted.json()['job_id']}"
            until(lambda: server.client.get(job).json()["status"] == "succeeded", 60)

            answer = httpx2.get(page)
            other = httpx2.get(page.removesuffix("metrics"))
        finally:
            worker.terminate()
            code = worker.wait(30)

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    done = 'galley_jobs_ended_total{kind="analyse_usage",status="succeeded"} 1.0'
    assert done in answer.text.splitlines()
    assert other.status_code == 404
    assert code == 0


def test_a_worker_whose_port_is_taken_says_so_and_does_not_start(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    shared = {
        "database_url": "postgresql://127.0.0.1:1/galley",
        "broker_url": redis_server.url.replace("unix://", "redis+socket://"),
    }
    env = environment(tmp_path, embedded_models=False, **shared)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = run("worker", "--metrics-port", taken.getsockname()[1], env=env)

    assert said.returncode == 2
    assert "--metrics-port" in said.stderr
