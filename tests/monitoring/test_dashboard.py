"""Grafana's dashboard: what it asks, and how it is put together."""

from pathlib import Path

import yaml

from tests.monitoring.files import FOLDER, dashboard, panels, queries
from tests.monitoring.test_rules import promtool


def test_prometheus_can_read_all_that_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [{"record": f"panel:query:{n}", "expr": expr} for n, expr in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": asked}]}))

    said = promtool("check", "rules", file)

    assert f"{len(asked)} rules found" in said


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    shown = dashboard()["panels"]
    places = [panel["gridPos"] for panel in shown]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in shown}) == len(shown)
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_every_panel_says_what_it_shows_in_which_unit_from_the_chosen_prometheus() -> None:
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
        sources = {target["datasource"]["uid"] for target in panel["targets"]}
        assert sources == {"${datasource}"}, panel["title"]


def test_what_the_dashboard_asks_is_of_the_chosen_job() -> None:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]

    assert [expr for expr in asked if '"$job"' not in expr] == []


def test_the_data_source_is_one_that_the_dashboard_can_choose() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())
    providers = yaml.safe_load((folder / "dashboards" / "galley.yml").read_text())

    (choice,) = (v for v in dashboard()["templating"]["list"] if v["type"] == "datasource")
    assert choice["query"] == sources["datasources"][0]["type"]
    assert providers["providers"][0]["type"] == "file"
