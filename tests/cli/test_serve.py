import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from galley.client import AuthenticationError, Client
from galley.client.profile import Profile, load_profile, save_profile
from galley.core.security import make_key
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.cli.program import Serving, environment, run, serve
from tests.loopback import HANG, events, scripted_server


@pytest.fixture(scope="module")
def first_start(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that has just started on an empty data directory."""
    env = environment(tmp_path_factory.mktemp("data"), models_dir=models_dir)
    with serve(env=env, folder=tmp_path_factory.mktemp("output")) as serving:
        serving.until("Ready after")
        yield serving


def data_dir(serving: Serving) -> Path:
    return Path(serving.env["GALLEY_DATA_DIR"])


def test_the_first_start_shows_addresses_a_key_that_works_and_what_to_try(
    first_start: Serving,
) -> None:
    said = first_start.said

    shown = re.search(r"API key +(gk_\w{38})", said)
    assert shown
    with Client(first_start.base_url, shown[1]) as client:
        assert client.usage().total_requests >= 0
    assert f"{first_start.base_url}/docs" in said
    assert f"curl {first_start.base_url}/v1/chat/completions" in said
    assert 'chat "hello"' in said
    assert "is a demonstration" in first_start.errors.read_text()


def test_the_key_is_kept_for_its_owner_alone_so_that_commands_just_work(
    first_start: Serving,
) -> None:
    path = data_dir(first_start) / "client.toml"

    answered = run("embed", "a cat", "--json", env=first_start.env)

    assert path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(answered.stdout)[0]["embedding"]) == 384


def test_every_example_of_the_banner_is_one_line_that_can_be_pasted(first_start: Serving) -> None:
    curl = next(line for line in first_start.said.splitlines() if "curl http" in line)

    body = re.search(r"-d '(.*)'$", curl)

    assert body
    assert json.loads(body[1])["messages"] == [{"role": "user", "content": "What is FastAPI?"}]
    assert json.loads(body[1])["temperature"] == 0.2


def test_a_second_server_on_the_same_data_is_refused_in_one_line(first_start: Serving) -> None:
    second = run("serve", "--port", "0", env=first_start.env)

    assert second.returncode == 2
    assert "Another server is using" in second.stderr
    assert "Traceback" not in second.stderr


def test_keys_can_be_made_listed_and_revoked_while_the_server_runs(first_start: Serving) -> None:
    made = json.loads(run("keys", "create", "--name", "x", "--json", env=first_start.env).stdout)
    other = run("keys", "create", env=first_start.env).stdout.strip()
    listed = json.loads(run("keys", "list", "--json", env=first_start.env).stdout)
    revoked = run("keys", "revoke", made["id"], env=first_start.env)

    assert [(key["id"], key["name"]) for key in listed][1] == (made["id"], "x")
    assert revoked.returncode == 0
    with Client(first_start.base_url, other) as client:
        assert client.models()
    with Client(first_start.base_url, made["key"]) as client, pytest.raises(AuthenticationError):
        client.models()


def test_sigterm_ends_it_in_order_and_the_next_start_shows_no_key(tmp_path: Path) -> None:
    env = environment(tmp_path, embedded_models=False)
    with serve(env=env, folder=tmp_path) as first:
        key = load_profile(tmp_path / "client.toml")
        status = first.stop(signal.SIGTERM)
    with serve(env=env, folder=tmp_path) as second:
        said = second.said
        kept = load_profile(tmp_path / "client.toml")

    assert status == 0
    assert "gk_" not in said
    assert key
    assert kept
    assert (kept.api_key, kept.base_url) == (key.api_key, second.base_url)


def test_a_kept_key_that_was_revoked_is_said_at_the_next_start(tmp_path: Path) -> None:
    env = environment(tmp_path, embedded_models=False)
    path = tmp_path / "client.toml"
    with serve(env=env, folder=tmp_path) as first:
        key = load_profile(path)
        first.stop()
    assert key
    save_profile(path, Profile(key.base_url, f"gk_{'x' * 38}"))

    with serve(env=env, folder=tmp_path) as second:
        said = second.until("Models")
        errors = second.errors.read_text()

    assert f"kept in {path}, but it no longer opens" in said
    assert "keys create --local" in errors


def test_a_key_of_the_operators_own_is_neither_shown_nor_kept(tmp_path: Path) -> None:
    key = "gk_b4X29YjjRlzLtevirW0jTvz6gVLWRen22K1Yu2"
    env = environment(tmp_path, embedded_models=False, bootstrap_key=key)
    with serve(env=env, folder=tmp_path) as serving, Client(serving.base_url, key) as client:
        models = client.models()

    assert models == []
    assert key not in serving.said
    assert not (tmp_path / "client.toml").exists()


def test_a_public_address_is_served_with_a_warning_until_ctrl_c(tmp_path: Path) -> None:
    env = environment(tmp_path, embedded_models=False)
    with serve("--host", "0.0.0.0", env=env, folder=tmp_path) as serving:  # noqa: S104 - the test
        serving.until("Models")
        warning = serving.errors.read_text()
        status = serving.stop(signal.SIGINT)

    assert status == 0
    assert serving.base_url.startswith("http://127.0.0.1:")
    assert "without TLS" in warning


def test_ctrl_c_waits_for_answers_and_says_so_and_the_second_ends_at_once(tmp_path: Path) -> None:
    piece = {"choices": [{"index": 0, "delta": {"content": "on and on"}}]}
    endless = [events(json.dumps(piece)), HANG]
    with scripted_server(endless) as upstream:
        (tmp_path / "galley.toml").write_text(
            f"[models.far]\nkind = 'chat'\nsource = '{upstream.base_url}/v1'\n"
        )
        env = environment(tmp_path, embedded_models=False, grace_period=20)
        asyncio.run(_make_free(tmp_path, "far"))
        with serve(env=env, folder=tmp_path) as serving:
            serving.until("Ready after")
            profile = load_profile(tmp_path / "client.toml")
            assert profile
            with Client(serving.base_url, profile.api_key) as client:
                answer = client.chat_stream("hello", model="far")
                first = next(answer)
                serving.process.send_signal(signal.SIGINT)
                serving.until_error("Finishing 1 answer (up to 20 s); Ctrl-C again ends at once.")
                began = time.monotonic()
                status = serving.stop(signal.SIGINT)
                took = time.monotonic() - began
        errors = serving.errors.read_text()

    assert first == "on and on"
    assert status == 0
    assert took < 10
    assert "1 answer cut off" in errors
    assert "Traceback" not in errors


async def _make_free(data_dir: Path, model: str) -> None:
    async with open_database(f"sqlite+aiosqlite:///{data_dir}/galley.db") as database:
        await Pricing(database.sessions).seed_free([model])


def test_a_port_that_is_taken_is_one_line_with_the_next_step(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        ran = run("serve", "--port", port, env=environment(tmp_path, embedded_models=False))

    assert ran.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in ran.stderr
    assert "--data-dir" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_an_address_of_another_machine_is_one_line(tmp_path: Path) -> None:
    env = environment(tmp_path, embedded_models=False)

    ran = run("serve", "--host", "192.0.2.1", "--port", 0, env=env)

    assert ran.returncode == 1
    assert "Cannot listen on 192.0.2.1" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"hots": "x"}, "Nearest: 'GALLEY_HOST'"),
        ({"grace_period": -1}, "GALLEY_GRACE_PERIOD: "),
        ({"config": "/nope.toml"}, "GALLEY_CONFIG names /nope.toml"),
        ({"bootstrap_key": "gk_wrong"}, "GALLEY_BOOTSTRAP_KEY is not an API key"),
        ({"database_url": "mysql://x/y"}, "GALLEY_DATABASE_URL names 'mysql'"),
        ({"trusted_proxies": "127.0.0.1, nginx"}, "GALLEY_TRUSTED_PROXIES: 'nginx'"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line_and_exit_code_2(
    given: dict[str, object], line: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, embedded_models=False, **given)

    ran = run("serve", "--port", 0, env=env)

    assert ran.returncode == 2
    assert line in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_without_network_and_models_it_serves_what_other_servers_have(tmp_path: Path) -> None:
    chunk = {"id": "c", "created": 1, "model": "up", "choices": []}
    said = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    answer = events(json.dumps(chunk | {"choices": [said]}), "[DONE]")
    with scripted_server(answer) as upstream:
        (tmp_path / "galley.toml").write_text(
            f"[models.far]\nkind = 'chat'\nsource = '{upstream.base_url}/v1'\ndefault = true\n"
        )
        asyncio.run(_make_free(tmp_path, "far"))
        env = environment(tmp_path) | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
        with serve(env=env, folder=tmp_path) as serving:
            serving.until("Ready after")
            answered = run("chat", "hello", env=env)
        errors = serving.errors.read_text()

    assert answered.stdout == "hi\n"
    assert "Connect once and run `galley models install`" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("trusted", "is_secure"), [("127.0.0.0/8", True), ("10.0.0.1", False)])
def test_only_a_trusted_proxy_says_that_the_browser_came_by_https(
    trusted: str, is_secure: bool, tmp_path: Path
) -> None:
    key = make_key()
    env = environment(tmp_path, embedded_models=False, bootstrap_key=key, trusted_proxies=trusted)
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}
    with serve(env=env, folder=tmp_path) as serving:
        answer = httpx2.post(
            f"{serving.base_url}/v1/auth/session", json={"api_key": key}, headers=forwarded
        )

    assert answer.status_code == 200
    assert all(("Secure" in c) == is_secure for c in answer.headers.get_list("set-cookie"))
