import pytest

from tests.cli.conftest import Galley
from tests.cli.office import admins, read, server

__all__ = ["admins", "server"]

pytestmark = pytest.mark.xdist_group("tiers")  # one server for the file


def test_the_tiers_of_a_new_server_are_listed(admins: Galley) -> None:
    listed = admins("tiers", "list")
    tiers = {tier["name"]: tier for tier in read(admins("tiers", "list", "--json"))}

    assert list(tiers) == ["enterprise", "free", "premium"]
    assert tiers["free"]["limits"]["images_per_minute"] == 5
    assert tiers["enterprise"]["limits"] == {}
    assert [tier["weight"] for tier in tiers.values()] == [16, 1, 4]
    assert "images_per_minute=5" in listed.stdout


def test_a_tier_is_made_and_changed_where_it_is_named_and_nowhere_else(admins: Galley) -> None:
    made = read(
        admins(
            *("tiers", "set", "trial", "--scope", "chat", "--scope", "usage"),
            *("--model", "small", "--limit", "cost_per_day=0.50"),
            *("--model-limit", "ns:small:concurrency=1", "--json"),
        )
    )
    changed = read(admins("tiers", "set", "trial", "--limit", "concurrency=3", "--json"))
    opened = read(admins("tiers", "set", "trial", "--model", "all", "--weight", "3", "--json"))
    again = read(admins("tiers", "set", "trial", "--scope", "chat", "--json"))
    shown = " ".join(admins("tiers", "show", "trial").stdout.split())

    assert made["limits"] == {"cost_per_day": 500_000}
    assert made["model_limits"] == {"ns:small": {"concurrency": 1}}
    assert changed == made | {"limits": {"cost_per_day": 500_000, "concurrency": 3}}
    assert changed["weight"] == 1
    assert opened == changed | {"models": None, "weight": 3}
    assert again == opened | {"scopes": ["chat"]}
    for said in ("chat", "weight 3", "concurrency=3, cost_per_day=0.50", "on ns:small"):
        assert said in shown


def test_a_tier_with_a_model_that_is_not_there_is_made_with_a_warning(admins: Galley) -> None:
    asked = ("--model", "nosuch", "--model-limit", "nosuch-either:concurrency=1")

    made = admins("tiers", "set", "hopeful", *asked, "--json")
    fine = admins("tiers", "set", "sure", "--model", "all", "--model", "gpt-*", "--json")

    assert read(made)["models"] == ["nosuch"]
    assert "No model or route is called nosuch:" in made.stderr
    assert "No model or route is called nosuch-either:" in made.stderr
    assert fine.stderr == ""


def test_a_tier_is_deleted_when_nobody_is_in_it(admins: Galley) -> None:
    admins("tiers", "set", "short-lived")

    deleted = admins("tiers", "delete", "short-lived")
    gone = admins("tiers", "show", "short-lived")
    used = admins("tiers", "delete", "enterprise")

    assert deleted.stdout == "Deleted short-lived.\n"
    assert (gone.exit_code, used.exit_code) == (1, 1)
    assert "`galley tiers list`" in gone.stderr
    assert "Somebody is in this tier" in used.stderr


def test_a_limit_on_a_model_names_both(admins: Galley) -> None:
    refused = admins("tiers", "set", "free", "--model-limit", "concurrency=5")

    assert refused.exit_code == 2
    assert "MODEL:NAME=VALUE" in refused.stderr


def test_filter_rules_are_set_and_taken_away_by_their_names(admins: Galley) -> None:
    first = ("--filter", "keys=refuse:both:secrets", "--filter", "mail=mask:output:email,phone")
    made = read(admins("tiers", "set", "guarded", *first, "--json"))
    more = ("--filter", "falcon=flag:input:/project: falcon/", "--filter", "keys=unset")
    changed = read(admins("tiers", "set", "guarded", *more, "--json"))
    kept = read(admins("tiers", "set", "guarded", "--weight", "2", "--json"))
    shown = " ".join(admins("tiers", "show", "guarded").stdout.split())

    mail = {"name": "mail", "detect": ["email", "phone"], "action": "mask", "on": "output"}
    falcon = {"name": "falcon", "pattern": "project: falcon", "action": "flag", "on": "input"}
    assert [rule["name"] for rule in made["filters"]] == ["keys", "mail"]
    assert [{k: v for k, v in rule.items() if v} for rule in changed["filters"]] == [mail, falcon]
    assert kept["filters"] == changed["filters"]
    assert "filter mail=mask:output:email,phone" in shown
    assert "filter falcon=flag:input:/project: falcon/" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys=hide:both:secrets", "action: "),
        ("keys=mask:both:passwords", "detect.0"),
        ("keys=mask:both:/a+/", "In place of * and +"),
        ("keys", "NAME=ACTION:ON:WHAT"),
    ],
)
def test_a_filter_rule_that_makes_no_sense_is_refused_at_once(
    admins: Galley, text: str, said: str
) -> None:
    refused = admins("tiers", "set", "free", "--filter", text)

    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())
