from datetime import UTC, datetime

import pytest

from galley.client import AuthenticationError, Client
from tests.cli.conftest import Galley
from tests.cli.office import admins, read, server
from tests.cli.program import Serving

__all__ = ["admins", "server"]

pytestmark = pytest.mark.xdist_group("users")  # one server for the file


def test_a_user_is_added_and_listed(admins: Galley) -> None:
    made = admins("users", "create", "ada@example.org", "--name", "Ada [L]", "--tier", "premium")
    listed = admins("users", "list", "--email", "ADA@")

    assert made.exit_code == 0, made.stderr
    assert "Added user ada@example.org: premium, active" in made.stdout
    for shown in ("ada@example.org", "Ada [L]", "premium", "active"):
        assert shown in listed.stdout
    assert "admin@localhost" not in listed.stdout
    assert "admin@localhost" in admins("users", "list").stdout


def test_a_limit_of_a_user_is_set_lifted_and_given_back_one_by_one(admins: Galley) -> None:
    admins("users", "create", "bob@example.org", "--limit", "concurrency=2")

    def change(*limits: str) -> dict[str, int | None]:
        words = [word for limit in limits for word in ("--limit", limit)]
        return read(admins("users", "update", "bob@example.org", *words, "--json"))["limits"]

    assert change("images_per_minute=none") == {"concurrency": 2, "images_per_minute": None}
    assert "images_per_minute=none, concurrency=2" in admins("users", "list").stdout
    assert change("concurrency=unset") == {"images_per_minute": None}


def test_a_user_is_changed_by_address_or_by_id(admins: Galley) -> None:
    made = read(admins("users", "create", "carol@example.org", "--json"))

    promoted = read(admins("users", "update", "CAROL@example.org", "--admin", "--json"))
    demoted = read(admins("users", "update", made["id"], "--no-admin", "--name", "C", "--json"))

    assert promoted["is_admin"] is True
    assert (demoted["is_admin"], demoted["name"], demoted["tier"]) == (False, "C", "free")


def test_who_is_disabled_is_out_until_they_are_active_again(
    server: Serving, admins: Galley
) -> None:
    admins("users", "create", "dan@example.org")
    key = admins("keys", "create", "--user", "dan@example.org").stdout.strip()
    with Client(server.base_url, key) as client:
        client.models()

        disabled = admins("users", "disable", "dan@example.org")
        with pytest.raises(AuthenticationError):
            client.models()
        admins("users", "update", "dan@example.org", "--status", "active")

        assert client.models() == []
    assert "Disabled user dan@example.org" in disabled.stdout


def test_a_password_comes_from_a_pipe_and_never_from_the_command_line(admins: Galley) -> None:
    made = admins(
        "users", "create", "eve@example.org", "--password", "--json", stdin="a long password\n"
    )
    short = admins("users", "create", "e@example.org", "--password", stdin="short\n")

    assert read(made)["has_password"] is True
    assert short.exit_code == 1
    assert "password" in short.stderr


def test_a_new_password_comes_from_a_pipe_and_opens(server: Serving, admins: Galley) -> None:
    admins("users", "create", "fay@example.org")

    done = admins("users", "passwd", "fay@example.org", stdin="a long password\n")
    short = admins("users", "passwd", "fay@example.org", stdin="short\n")

    assert done.stdout.startswith("Set the password of user fay@example.org")
    assert short.exit_code == 1
    with Client(server.base_url, server.env["GALLEY_BOOTSTRAP_KEY"]) as client:
        body = {"email": "fay@example.org", "password": "a long password"}
        assert client.request("POST", "/v1/auth/token", body)


def test_credit_is_given_in_dollars_and_listed(admins: Galley) -> None:
    admins("users", "create", "gil@example.org")

    first = admins("users", "credit", "gil@example.org", "10")
    second = read(admins("users", "credit", "gil@example.org", "2.50", "--json"))
    listed = admins("users", "list", "--email", "gil@")
    key = admins("keys", "create", "--user", "gil@example.org").stdout.strip()
    usage = admins("usage", "--key", key)
    invoice = admins("invoices", "show", f"{datetime.now(UTC):%Y-%m}", "--key", key)

    assert first.stdout == "gil@example.org has $10.00 of credit left.\n"
    assert second["credit"] == 12_500_000
    assert "$12.50" in listed.stdout
    assert "prepaid credit, user" in usage.stdout
    assert "paid from credit" in invoice.stdout


@pytest.mark.parametrize(
    ("amount", "code"), [("much", 2), ("0.0000001", 2), ("nan", 2), ("0", 1), ("2000000000", 1)]
)
def test_what_is_no_amount_is_no_credit(amount: str, code: int, admins: Galley) -> None:
    refused = admins("users", "credit", "admin@localhost", amount)

    assert refused.exit_code == code
    assert read(admins("users", "list", "--email", "admin@", "--json"))[0]["credit"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "admin@localhost"), "Someone has this address already"),
        (("create", "x@example.org", "--tier", "none-such"), "There is no such tier"),
        (("disable", "nobody@example.org"), "There is no user nobody@example.org"),
        (("disable", "no-id"), "There is no such user"),
        (("disable", "admin@localhost"), "last active admin"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    words: tuple[str, ...], said: str, admins: Galley
) -> None:
    refused = admins("users", *words)

    assert refused.exit_code == 1
    assert said in refused.stderr


def test_a_change_of_nothing_is_wrong_usage(admins: Galley) -> None:
    assert admins("users", "update", "admin@localhost").exit_code == 2
