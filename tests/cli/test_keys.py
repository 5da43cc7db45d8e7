import json
from pathlib import Path

import pytest

from galley.client import AuthenticationError, Client, PermissionDeniedError
from galley.client.profile import load_profile
from tests.cli.conftest import Galley
from tests.cli.office import admins, read, server
from tests.cli.program import Serving, environment, run, serve

__all__ = ["admins", "server"]

pytestmark = pytest.mark.xdist_group("keys")  # one server for the file


def test_a_key_is_shown_alone_so_that_a_shell_can_keep_it(server: Serving, admins: Galley) -> None:
    made = admins("keys", "create", "--name", "for [b]later")

    key = made.stdout.strip()
    assert made.exit_code == 0
    assert "shown this once" in made.stderr
    with Client(server.base_url, key) as client:
        assert client.usage()
    listed = admins("keys", "list").stdout
    assert f"{key[:7]}...{key[-4:]}" in listed
    assert "for [b]later" in listed
    assert key not in listed


def test_a_key_is_made_with_scopes_limits_and_an_end(server: Serving, admins: Galley) -> None:
    words = ["--scope", "chat", "--scope", "keys", "--expires-in-days", 3]
    limits = ["--limit", "requests_per_day=5", "--limit", "cost_per_day=0.25"]

    made = read(admins("keys", "create", *words, *limits, "--json"))

    assert made["scopes"] == ["chat", "keys"]
    assert made["limits"] == {"requests_per_day": 5, "cost_per_day": 250_000}
    assert made["expires_at"] is not None
    with Client(server.base_url, made["key"]) as client, pytest.raises(PermissionDeniedError):
        client.usage()
    assert "requests_per_day=5, cost_per_day=0.25" in admins("keys", "list").stdout


def test_a_revoked_key_is_closed_at_once_and_listed_as_such(
    server: Serving, admins: Galley
) -> None:
    made = read(admins("keys", "create", "--json"))
    with Client(server.base_url, made["key"]) as client:
        client.models()

        first = admins("keys", "revoke", made["id"])
        second = admins("keys", "revoke", made["id"])

        with pytest.raises(AuthenticationError):
            client.models()
    assert (first.exit_code, second.exit_code) == (0, 1)
    assert "no such key" in second.stderr
    revoked = [key["id"] for key in read(admins("keys", "list", "--json")) if key["revoked_at"]]
    assert revoked == [made["id"]]


def test_a_renewed_key_opens_and_the_old_one_for_the_overlap(
    server: Serving, admins: Galley
) -> None:
    old, closed = (read(admins("keys", "create", "--json")) for _ in range(2))

    kept = admins("keys", "rotate", old["id"], "--overlap", "600").stdout.strip()
    new = read(admins("keys", "rotate", closed["id"], "--json"))

    for key in (old["key"], kept, new["key"]):
        with Client(server.base_url, key) as client:
            client.models()
    with Client(server.base_url, closed["key"]) as client, pytest.raises(AuthenticationError):
        client.models()


def test_an_admin_looks_after_the_keys_of_a_user(server: Serving, admins: Galley) -> None:
    admins("users", "create", "ada@example.org")
    ada = ["--user", "Ada@example.org"]

    made = read(admins("keys", "create", *ada, "--json"))
    listed = read(admins("keys", "list", *ada, "--json"))
    admins("keys", "revoke", made["id"], *ada)
    stranger = admins("keys", "list", "--user", "nobody@example.org")

    assert [key["id"] for key in listed] == [made["id"]]
    with Client(server.base_url, made["key"]) as client, pytest.raises(AuthenticationError):
        client.models()
    assert stranger.exit_code == 1
    assert "`galley users list`" in stranger.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "everything=5"], "There is no limit 'everything'"),
        (["--limit", "concurrency=many"], "must be a whole number"),
        (["--limit", "cost_per_day=1.23456789"], "must be dollars"),
        (["--local", "--scope", "chat"], "leave the rest out"),
        (["--data-dir", "."], "goes with --local"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(words: list[str], said: str, admins: Galley) -> None:
    refused = admins("keys", "create", *words)

    assert refused.exit_code == 2
    assert said in refused.stderr


def test_before_the_first_start_there_is_one_line_with_the_next_step(
    galley: Galley, data_dir: Path
) -> None:
    shown = galley("keys", "create", "--local")

    assert shown.exit_code == 1
    assert "Start the server once: galley serve" in shown.stderr
    assert list(data_dir.iterdir()) == []


def test_who_lost_every_key_makes_one_on_the_servers_machine_while_it_runs_or_not(
    tmp_path: Path,
) -> None:
    env = environment(tmp_path, embedded_models=False)
    with serve(env=env, folder=tmp_path) as running:
        during = run("keys", "create", "--local", "--name", "x", env=env).stdout.strip()
        with Client(running.base_url, during) as client:
            assert client.request("GET", "/v1/admin/users")
    after = run("keys", "create", "--local", "--json", env=env)

    kept = load_profile(tmp_path / "client.toml")
    assert kept is not None
    assert kept.api_key == json.loads(after.stdout)["key"]
    assert str(tmp_path / "client.toml") in after.stderr
    with serve(env=env, folder=tmp_path) as running:
        key = json.loads(after.stdout)["key"]
        assert run("keys", "list", env=env).returncode == 0, "commands just work again"
        with Client(running.base_url, key) as client:
            names = [row["name"] for row in json.loads(client.request("GET", "/v1/keys"))["data"]]
    assert names == ["bootstrap", "x", "cli"]
