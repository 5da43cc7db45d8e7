"""The files of `monitoring/`, as tests read them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "monitoring"
# What Grafana fills in before it asks.
_FILLED = {"$__rate_interval": "5m", "$job": "galley", "$instance": ".*"}


def rules(name: str) -> list[dict[str, Any]]:
    """Every rule of a file, recording or alerting."""
    groups = yaml.safe_load((FOLDER / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana reads it."""
    return json.loads((FOLDER / "grafana" / "galley.json").read_text())


def panels() -> Iterator[dict[str, Any]]:
    """Every panel of the dashboard that asks something."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def queries() -> list[str]:
    """All that the dashboard asks, as Prometheus gets it."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [_filled(expr) for expr in asked]


def _filled(query: str) -> str:
    for name, value in _FILLED.items():
        query = query.replace(name, value)
    return query


def metrics_of(query: str) -> set[str]:
    """The names of the metrics that `query` asks for, as the server writes them."""
    bare = re.sub(r'"[^"]*"', '""', query)
    names = re.findall(r"\b(?:galley_\w+|process_\w+|\w+:\w+:\w+)", bare)
    return {re.sub(r"(?<=_seconds)_(?:bucket|count|sum)$", "", name) for name in names}
