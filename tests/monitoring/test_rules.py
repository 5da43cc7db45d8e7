"""The configuration of Prometheus, by its own judgement, and against what there is."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.monitoring.files import FOLDER, metrics_of, queries, rules
from tests.serving import LiveServer

PAGE = FOLDER.parent / "docs" / "monitoring.md"
ALERTS = [rule["alert"] for rule in rules("alerts.yml")]


def promtool(*words: str | Path, told: bytes = b"") -> str:
    """Run it; returns what it has to say."""
    done = subprocess.run(
        ["promtool", *map(str, words)], input=told, capture_output=True, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_prometheus_takes_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", FOLDER / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", FOLDER / "alerts_test.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_and_says_what_to_do(alert: str) -> None:
    tested = (FOLDER / "alerts_test.yml").read_text()
    (rule,) = (rule for rule in rules("alerts.yml") if rule["alert"] == alert)

    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", tested), "it is not seen to fire"
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{alert.lower()}"
    assert f"\n### {alert}\n" in PAGE.read_text()


def test_the_page_tells_of_no_alert_that_there_is_not() -> None:
    told = re.findall(r"^### (Galley\w+)$", PAGE.read_text(), re.MULTILINE)

    assert told == ALERTS


def test_prometheus_has_no_complaint_about_our_metrics(live_server: LiveServer) -> None:
    live_server.post("/v1/completions", model="galley/chat", prompt="One", max_tokens=1)
    live_server.post("/v1/embeddings", model="nobody-knows-it", input="a")
    page = live_server.client.get("/metrics").content

    assert promtool("check", "metrics", told=page) == ""


def test_rules_and_dashboards_ask_for_what_there_is(live_server: LiveServer) -> None:
    page = live_server.client.get("/metrics").text
    served = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    recorded = {rule["record"] for rule in rules("rules.yml")}
    asked = [rule["expr"] for rule in rules("rules.yml") + rules("alerts.yml")] + queries()

    for query in asked:
        names = metrics_of(query) - recorded
        assert names <= served, query
        assert names or "up{" in query or recorded & metrics_of(query), query


def test_every_metric_is_on_the_dashboard(live_server: LiveServer) -> None:
    page = live_server.client.get("/metrics").text
    served = set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))

    shown = {name for query in queries() for name in metrics_of(query)}

    assert served - shown == set()
