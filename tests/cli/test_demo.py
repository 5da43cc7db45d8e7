import json
from pathlib import Path

import pytest

from galley.cli.checks import CHECKS
from tests.cli.conftest import Galley
from tests.cli.program import environment, run
from tests.loopback import http, scripted_server
from tests.serving import LiveServer


def demo(server: LiveServer, folder: Path, *words: str, key: str | None = None) -> str:
    ran = run(
        "demo", "--server", server.url, "--key", key or server.key, *words,
        env=environment(folder), timeout_s=120,
    )  # fmt: skip
    assert ran.returncode == (1 if key else 0), ran.stdout + ran.stderr
    return ran.stdout


def test_every_check_is_green_on_a_running_server(live_server: LiveServer, tmp_path: Path) -> None:
    outcomes = json.loads(demo(live_server, tmp_path, "--json"))

    assert [outcome for outcome in outcomes if not outcome["ok"]] == []
    assert len(outcomes) == len(CHECKS)


def test_the_table_names_every_endpoint(live_server: LiveServer, tmp_path: Path) -> None:
    table = demo(live_server, tmp_path)

    assert [check.endpoint for check in CHECKS if check.endpoint not in table] == []
    assert f"{len(CHECKS)} checks, all green: {live_server.url}" in table


def test_a_wrong_key_is_red_where_a_key_is_needed_and_fails_the_command(
    live_server: LiveServer, tmp_path: Path
) -> None:
    rows = json.loads(demo(live_server, tmp_path, "--json", key="gk_wrong"))

    outcomes = {outcome["endpoint"]: outcome for outcome in rows}
    assert outcomes["GET /health/live"]["ok"]
    assert not outcomes["POST /v1/embeddings"]["ok"]
    assert "Invalid API key" in outcomes["POST /v1/embeddings"]["answer"]


HEALTH = http('{"status": "ok", "version": "1", "parts": {}}')


@pytest.mark.parametrize("answer", ["{}", "[]", '{"data": 5}', '{"error": {"message": "no"}}', "x"])
def test_a_server_that_answers_nonsense_is_red_everywhere(galley: Galley, answer: str) -> None:
    nonsense = [http(answer)] * 2 * len(CHECKS)
    with scripted_server(HEALTH, *nonsense) as server:
        shown = galley("demo", "--server", server.base_url, "--key", "gk_x", "--json")

    assert shown.exit_code == 1
    assert [outcome for outcome in json.loads(shown.stdout) if outcome["ok"]] == []


def test_a_server_that_is_not_ready_is_red_with_what_is_missing(galley: Galley) -> None:
    parts = '{"database": "ok", "model:far": "nothing answers"}'
    body = f'{{"status": "degraded", "version": "1", "parts": {parts}}}'
    unready = [http(body, status="503 Unavailable")] * 2 * len(CHECKS)
    with scripted_server(HEALTH, *unready) as server:
        shown = galley("demo", "--server", server.base_url, "--key", "gk_x", "--json")

    outcomes = {outcome["endpoint"]: outcome for outcome in json.loads(shown.stdout)}
    ready = outcomes["GET /health/ready"]
    assert not ready["ok"]
    assert ready["answer"] == "Not ready: model:far (nothing answers)."


def test_no_server_is_exit_code_3(galley: Galley) -> None:
    shown = galley("demo", "--server", "http://127.0.0.1:9")

    assert shown.exit_code == 3
    assert "galley serve" in shown.stderr
