"""Prices that admins set, and the invoices that come of them."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.security import make_key
from tests.serving import LiveServer, make_settings, serving

EMBEDDER = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of its own: prices are everybody's."""
    settings = make_settings(tmp_path_factory.mktemp("money"), models_dir)
    with serving(settings) as server:
        server.until_ready()
        yield server


@pytest.fixture
def someone(server: LiveServer) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.key_of_new_user()}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def put(server: LiveServer, model: str, **price: Any) -> httpx2.Response:
    return server.client.put(f"/v1/admin/prices/{model}", json=price)


def embed(client: httpx2.Client, text: str = "a cat") -> httpx2.Response:
    answer = client.post("/v1/embeddings", json={"model": "galley/embeddings", "input": text})
    assert answer.status_code == 200, answer.text
    return answer


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


def test_models_that_come_with_galley_are_free_and_say_so(someone: httpx2.Client) -> None:
    found = someone.get("/v1/prices").json()

    classify = next(p for p in found["data"] if p["model"] == "efficientnet-lite0")
    amounts = [classify[n] for n in ("prompt", "cached", "completion", "unit", "second")]
    assert amounts == ["0.00"] * 5


def test_a_request_costs_what_its_model_costs_at_that_moment(
    server: LiveServer, someone: httpx2.Client
) -> None:
    first = put(server, "galley/embeddings", prompt=1_000_000, unit=500).json()
    cheap = embed(someone)
    second = put(server, EMBEDDER, prompt=3_000_000, unit=700).json()
    dear = embed(someone)

    rows = someone.get("/v1/requests").json()["data"]

    tokens = cheap.json()["usage"]["prompt_tokens"]
    assert first["model"] == EMBEDDER
    assert [row["id"] for row in rows] == [a.headers["request-id"] for a in (dear, cheap)]
    assert [row["price_id"] for row in rows] == [second["id"], first["id"]]
    assert [row["cost"] for row in rows] == [3 * tokens + 700, tokens + 500]
    assert someone.get("/v1/usage").json()["cost"] == 4 * tokens + 1_200


def test_every_price_that_was_set_is_kept(server: LiveServer) -> None:
    made = [put(server, "efficientnet-lite0", unit=n).json()["id"] for n in (3, 2)]

    found = server.client.get(
        "/v1/admin/prices", params={"model": "efficientnet-lite0", "limit": 2}
    ).json()
    rest = server.client.get(
        "/v1/admin/prices", params={"model": "efficientnet-lite0", "after": made[0]}
    ).json()

    assert [price["id"] for price in found["data"]] == made[::-1]
    assert found["has_more"]
    assert [price["unit"] for price in rest["data"]] == [0]


def test_a_price_for_later_does_not_count_yet(server: LiveServer, someone: httpx2.Client) -> None:
    put(server, EMBEDDER, prompt=2_000_000)
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    made = put(server, EMBEDDER, prompt=9_000_000, valid_from=later)

    assert made.status_code == 200
    current = {p["model"]: p for p in someone.get("/v1/prices").json()["data"]}
    assert current[EMBEDDER]["prompt"] == "2.00"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"prompt": -1}, 422),
        ({"prompt": 10**10 + 1}, 422),
        ({"prompt": 0.5}, 422),
        ({"prompt": "5"}, 422),
        ({"prompt": True}, 422),
        ({"prompt": None}, 422),
        ({"prompt": 1, "cached": 2}, 422),
        ({"prompt": 1, "tier": "free"}, 422),
        ({"prompt": 1, "valid_from": "2026-01-01T00:00:00"}, 422),
        ({"prompt": 1, "valid_from": 1_700_000_000}, 422),
        ({"prompt": 1, "valid_from": "2020-01-01T00:00:00Z"}, 400),
        ({"prompt": 1, "valid_from": "9999-12-31T23:59:59-14:00"}, 422),
    ],
)
def test_a_price_that_makes_no_sense_is_refused_and_changes_nothing(
    server: LiveServer, body: dict[str, Any], status: int
) -> None:
    before = server.client.get("/v1/admin/prices").json()

    refused = put(server, EMBEDDER, **body)

    assert refused.status_code == status
    assert server.client.get("/v1/admin/prices").json() == before


def test_prices_of_a_name_that_no_model_can_have_are_not_looked_for(server: LiveServer) -> None:
    assert server.client.get("/v1/admin/prices", params={"model": "a\0"}).status_code == 422


def test_only_models_that_are_there_have_prices(server: LiveServer) -> None:
    assert put(server, "gpt-99", prompt=1).status_code == 404


def test_prices_are_set_by_admins_alone(server: LiveServer, someone: httpx2.Client) -> None:
    answers = [
        someone.put(f"/v1/admin/prices/{EMBEDDER}", json={"prompt": 0}),
        someone.get("/v1/admin/prices"),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert all("admin:prices" in answer.json()["detail"] for answer in answers)


def test_an_invoice_has_a_line_per_model_and_endpoint(
    server: LiveServer, someone: httpx2.Client
) -> None:
    put(server, EMBEDDER, unit=1_234_567)
    embed(someone)
    embed(someone)

    invoice = someone.get(f"/v1/invoices/{this_month()}").json()
    listed = someone.get("/v1/invoices").json()["data"]

    assert [(n["model"], n["endpoint"], n["requests"], n["units"]) for n in invoice["lines"]] == [
        (EMBEDDER, "embeddings", 2, 2)
    ]
    assert (invoice["cost"], invoice["total"]) == (2_469_134, "2.469134")
    assert invoice["final"] is False
    assert invoice["email"].endswith("@example.org")
    assert [(n["month"], n["total"], n["final"]) for n in listed] == [
        (this_month(), "2.469134", False)
    ]


def test_the_month_that_runs_has_an_invoice_from_its_first_day(someone: httpx2.Client) -> None:
    invoice = someone.get(f"/v1/invoices/{this_month()}").json()

    assert (invoice["lines"], invoice["total"]) == ([], "0.00")


@pytest.mark.parametrize(
    ("month", "status"),
    [
        ("2020-01", 404),
        ("2099-12", 404),
        ("2026-13", 422),
        ("2026-1", 422),
        ("9999-12", 422),
        ("20\u0662\u0666-01", 422),
        ("x", 422),
    ],
)
def test_a_month_without_requests_has_no_invoice(
    someone: httpx2.Client, month: str, status: int
) -> None:
    assert someone.get(f"/v1/invoices/{month}").status_code == status


def test_an_invoice_is_read_by_spreadsheets(server: LiveServer, someone: httpx2.Client) -> None:
    put(server, EMBEDDER, unit=2_500_000)
    embed(someone)

    answer = someone.get(f"/v1/invoices/{this_month()}", params={"format": "csv"})

    (row,) = csv.DictReader(answer.text.splitlines())
    assert answer.headers["content-type"].startswith("text/csv")
    assert f"invoice-{this_month()}.csv" in answer.headers["content-disposition"]
    assert (row["month"], row["final"], row["model"]) == (this_month(), "no", EMBEDDER)
    assert (row["units"], row["cost"], row["amount"]) == ("1", "2500000", "2.50")


def test_an_invoice_is_a_page_without_anything_that_runs(
    server: LiveServer, someone: httpx2.Client
) -> None:
    user = {
        "email": f"{make_key()}@example.org".lower(),
        "name": "<script>alert(1)</script>",
        "tier": "enterprise",
    }
    user_id = server.client.post("/v1/admin/users", json=user).json()["id"]

    page = server.client.get(
        f"/v1/admin/users/{user_id}/invoices/{this_month()}", params={"format": "html"}
    )

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "Not final" in page.text


def test_an_invoice_of_who_paid_ahead_says_last_what_was_paid_and_what_is_due(
    server: LiveServer, someone: httpx2.Client
) -> None:
    put(server, EMBEDDER, unit=2_500_000)
    user_id = someone.get("/v1/me").json()["user_id"]
    path = f"/v1/invoices/{this_month()}"
    billed = someone.get(path, params={"format": "html"}).text
    server.client.post(f"/v1/admin/users/{user_id}/credit", json={"amount": 4_000_000})
    embed(someone)
    refused = someone.post("/v1/embeddings", json={"model": "galley/embeddings", "input": "b"})

    invoice = someone.get(path).json()
    *_, paid, due = csv.reader(
        someone.get(path, params={"format": "csv"}).text.splitlines(), strict=True
    )
    page = someone.get(path, params={"format": "html"}).text

    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert "prepaid credit" in refused.json()["error"]["message"]
    assert (invoice["paid"], invoice["paid_amount"]) == (2_500_000, "2.50")
    assert (invoice["due"], invoice["due_amount"]) == (0, "0.00")
    assert (paid[2], paid[-2:]) == ("paid from credit", ["-2500000", "-2.50"])
    assert (due[2], due[-2:]) == ("due", ["0", "0.00"])
    assert "Paid from credit</td><td>2.50</td>" in page
    assert "Due</td><td>0.00</td>" in page
    assert "Paid from credit" not in billed


def test_admins_see_the_invoices_of_others_and_nobody_else_does(
    server: LiveServer, someone: httpx2.Client
) -> None:
    embed(someone)
    user_id = someone.get("/v1/me").json()["user_id"]
    path = f"/v1/admin/users/{user_id}/invoices/{this_month()}"

    theirs = server.client.get(path)
    refused = someone.get(path)
    nobodys = server.client.get(f"/v1/admin/users/nobody/invoices/{this_month()}")

    assert theirs.json() == someone.get(f"/v1/invoices/{this_month()}").json()
    assert (refused.status_code, nobodys.status_code) == (403, 404)
