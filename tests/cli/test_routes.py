import httpx2
import pytest

from tests.cli.conftest import Galley
from tests.cli.office import admins, read, server
from tests.cli.program import Serving

__all__ = ["admins", "server"]

pytestmark = pytest.mark.xdist_group("routes")  # one server for the file


@pytest.fixture(scope="module", autouse=True)
def models(server: Serving) -> None:
    """Three models of a server that never answers."""
    headers = {"authorization": f"Bearer {server.env['GALLEY_BOOTSTRAP_KEY']}"}
    with httpx2.Client(base_url=server.base_url, headers=headers) as client:
        for name in ("big", "small", "tiny"):
            spec = {"kind": "chat", "source": "http://127.0.0.1:9/v1"}
            made = client.put(f"/v1/admin/models/{name}", json=spec)
            assert made.status_code == 200, made.text


def test_a_route_is_set_listed_promoted_rolled_back_and_deleted(admins: Galley) -> None:
    made = admins(
        *("routes", "set", "smart", "--target", "big=90", "--target", "small=10"),
        *("--fallback", "tiny"),
    )
    listed = admins("routes", "list").stdout
    promoted = read(admins("routes", "promote", "smart", "small", "--json"))
    rolled = admins("routes", "rollback", "smart")
    after = read(admins("routes", "list", "--json"))
    deleted = admins("routes", "delete", "smart")

    assert made.stdout == "smart leads to big=90, small=10.\n"
    for said in ("smart", "big=90, small=10", "tiny", "admin"):
        assert said in listed
    assert promoted["targets"] == {"big": 0.0, "small": 1.0}
    assert rolled.stdout == "Rolled smart back.\n"
    assert [(r["targets"], r["fallbacks"]) for r in after] == [
        ({"big": 90.0, "small": 10.0}, ["tiny"])
    ]
    assert deleted.stdout == "Deleted smart.\n"
    assert read(admins("routes", "list", "--json")) == []


def test_a_wildcard_is_a_name_as_any_and_a_weight_may_be_left_out(admins: Galley) -> None:
    made = read(admins("routes", "set", "org/gpt-*", "--target", "big", "--json"))
    deleted = admins("routes", "delete", "org/gpt-*")

    assert (made["name"], made["targets"]) == ("org/gpt-*", {"big": 1.0})
    assert deleted.exit_code == 0


def test_results_tell_what_is_known_of_each_target(admins: Galley) -> None:
    admins("routes", "set", "canary", "--target", "big=90", "--target", "small=10")

    shown = admins("routes", "results", "canary", "--since", "2026-01-01T00:00:00Z")
    found = read(admins("routes", "results", "canary", "--json"))

    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("canary since 2026-01-01 00:00:00\n")
    for said in ("weight", "90", "errors, %", "first token p95, ms", "US$ a request"):
        assert said in shown.stdout
    assert shown.stdout.endswith("Nothing can be said of their differences yet.\n")
    assert [arm["requests"] for arm in found["data"]] == [0, 0]


def test_what_cannot_be_is_said_in_one_line(admins: Galley) -> None:
    worded = admins("routes", "set", "smart", "--target", "big=much")
    unknown = admins("routes", "set", "smart", "--target", "nobody=1")
    nowhere = admins("routes", "results", "nobody")

    assert (worded.exit_code, unknown.exit_code, nowhere.exit_code) == (2, 1, 1)
    assert "--target big=much: it is MODEL=WEIGHT." in worded.stderr
    assert "There is no model 'nobody'" in unknown.stderr
    assert "There is no route 'nobody'" in nowhere.stderr
