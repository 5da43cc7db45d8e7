"""`galley usage`, `prices`, `invoices` and `audit`, against a server that runs."""

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.cli.program import Serving, environment, run, serve
from tests.serving import LiveServer, make_settings, serving

Galley = Callable[..., "subprocess.CompletedProcess[str]"]
EMBEDDER = "all-minilm-l6-v2"
MONTH = f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of its own, with one request that was paid for."""
    settings = make_settings(tmp_path_factory.mktemp("money"), models_dir)
    with serving(settings) as server:
        server.until_ready()
        server.client.put(f"/v1/admin/prices/{EMBEDDER}", json={"unit": 1_500_000})
        server.post("/v1/embeddings", model="galley/embeddings", input=["a", "b"])
        yield server


@pytest.fixture
def galley(server: LiveServer, tmp_path: Path) -> Galley:
    """Run a command in a process of its own: the server's log is in this one's output."""
    env = environment(tmp_path, base_url=server.url, api_key=server.key)
    return partial(run, env=env)


def test_usage_is_shown_with_what_it_cost(galley: Galley) -> None:
    shown = galley("usage", "--by", "model")

    assert shown.returncode == 0
    assert "$3.00" in shown.stdout
    assert EMBEDDER in shown.stdout


def test_usage_of_all_can_be_added_up_by_user(galley: Galley) -> None:
    shown = galley("usage", "--all", "--by", "user", "--json")

    rows = json.loads(shown.stdout)["rows"]
    assert [(row["name"], row["cost"]) for row in rows] == [("admin@localhost", 3_000_000)]


@pytest.mark.parametrize("words", [("--by", "user"), ("--all", "--by", "key"), ("--from", "x")])
def test_a_group_that_does_not_go_with_it_is_wrong_usage(
    galley: Galley, words: tuple[str, ...]
) -> None:
    assert galley("usage", *words).returncode == 2


def test_prices_are_set_and_listed_in_dollars(galley: Galley) -> None:
    made = galley("prices", "set", "galley/classify", "--unit", "0.002", "--prompt", "0.15")
    listed = galley("prices", "list")
    history = galley("prices", "list", "--history", "--model", "efficientnet-lite0", "--json")

    assert made.stdout.startswith("efficientnet-lite0 costs prompt $0.15, cached $0.15,")
    (row,) = (line for line in listed.stdout.splitlines() if "efficientnet" in line)
    assert "0.15" in row
    assert "0.002" in row
    assert [price["unit"] for price in json.loads(history.stdout)] == [2_000, 0]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--prompt", "cheap"),
        ("--prompt", "0.0000001"),
        ("--prompt", "nan"),
        ("--valid-from", "2099-01-01T00:00:00Z"),
    ],
)
def test_what_is_no_price_is_wrong_usage(galley: Galley, words: tuple[str, ...]) -> None:
    assert galley("prices", "set", EMBEDDER, *words).returncode == 2


def test_a_negative_price_is_refused_by_the_server(galley: Galley) -> None:
    refused = galley("prices", "set", EMBEDDER, "--prompt=-1")

    assert refused.returncode == 1
    assert "greater than or equal to 0" in refused.stderr


def test_invoices_are_listed_shown_and_saved(galley: Galley, tmp_path: Path) -> None:
    listed = galley("invoices", "list", "--json")
    shown = galley("invoices", "show", MONTH, "--user", "ADMIN@localhost")
    saved = [
        galley("invoices", "save", MONTH, "--format", kind, "--output", tmp_path / f"x.{kind}")
        for kind in ("html", "csv", "json")
    ]

    assert [(n["month"], n["total"]) for n in json.loads(listed.stdout)] == [(MONTH, "3.00")]
    assert "not final" in shown.stdout
    assert "3.00" in shown.stdout
    assert [done.returncode for done in saved] == [0, 0, 0]
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert f"{MONTH},no,{EMBEDDER},embeddings,1," in (tmp_path / "x.csv").read_text()
    assert json.loads((tmp_path / "x.json").read_text())["cost"] == 3_000_000


def test_a_month_without_requests_is_one_line(galley: Galley) -> None:
    shown = galley("invoices", "show", "2020-01")

    assert shown.returncode == 1
    assert "There is no invoice for 2020-01." in shown.stderr


def test_a_clean_ledger_says_what_was_compared(galley: Galley, server: LiveServer) -> None:
    folder = server.settings.data_dir
    shown = galley("audit", "--data-dir", folder)
    told = json.loads(galley("audit", "--data-dir", folder, "--json").stdout)

    assert shown.returncode == 0
    assert shown.stdout.startswith("Clean: 1 requests agree with their prices")
    assert (told["ok"], told["requests"], told["invoices"]) == (True, 1, 1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """A server that has run once and is gone."""
    folder = tmp_path_factory.mktemp("stopped")
    with serve(env=environment(folder, embedded_models=False), folder=folder) as serving:
        pass
    return serving


def test_a_ledger_that_was_changed_fails_the_audit_while_no_server_runs(stopped: Serving) -> None:
    folder = stopped.output.parent
    with closing(sqlite3.connect(folder / "galley.db")) as database, database:
        database.execute(
            "INSERT INTO usage_daily VALUES"
            " (zeroblob(16), '2026-11-21', 'chat', '', 1, 1, 0, 0, 0, 5, 0)"
        )

    told = run("audit", env=stopped.env)
    read = run("audit", "--json", env=stopped.env)

    assert (told.returncode, read.returncode) == (1, 1)
    assert "usage_daily 2026-11-21 user 00000000-0000-0000-0000-000000000000 chat" in told.stderr
    assert json.loads(read.stdout)["ok"] is False


def test_before_the_first_start_there_is_nothing_to_audit(galley: Galley) -> None:
    shown = galley("audit")

    assert shown.returncode == 1
    assert "Start the server once: galley serve" in shown.stderr
