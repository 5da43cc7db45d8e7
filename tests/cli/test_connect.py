import json
import tomllib
from pathlib import Path

import pytest

from galley.cli.connectable import CLIENTS
from galley.client.profile import Profile, save_profile
from tests.cli.conftest import Galley

URL, KEY = "http://box.example:9000", "gk_the_known_one"


@pytest.fixture
def known(data_dir: Path, galley: Galley) -> Galley:
    """The command line where the server has left its address and a key."""
    save_profile(data_dir / "client.toml", Profile(URL, KEY))
    return galley


def test_without_a_client_all_of_them_are_listed(galley: Galley) -> None:
    shown = galley("connect")
    as_json = json.loads(galley("connect", "--json").stdout)

    assert shown.exit_code == 0, shown.stderr
    listed = [line.split()[0] for line in shown.stdout.splitlines()[1:]]
    assert listed == list(as_json) == list(CLIENTS)
    assert {"openai", "anthropic", "codex", "claude-code", "langchain", "llm"} <= set(listed)


def test_the_lines_alone_go_to_standard_output(known: Galley) -> None:
    shown = known("connect", "openai", "--show-key")

    assert shown.stdout == f"export OPENAI_BASE_URL={URL}/v1\nexport OPENAI_API_KEY={KEY}\n"
    assert "in the shell" in shown.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_is_printed_only_when_it_is_asked_for(known: Galley, client: str) -> None:
    without = known("connect", client)
    with_key = known("connect", client, "--show-key")
    as_json = json.loads(known("connect", client, "--json").stdout)

    assert KEY not in without.stdout + without.stderr
    assert "YOUR_API_KEY" in without.stdout
    assert "--show-key" in without.stderr
    assert with_key.stdout == without.stdout.replace("YOUR_API_KEY", KEY)
    assert as_json["lines"] == without.stdout


def test_a_key_that_is_not_known_is_not_promised(galley: Galley) -> None:
    shown = galley("connect", "openai")

    assert "OPENAI_API_KEY=YOUR_API_KEY" in shown.stdout
    assert "--show-key" not in shown.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_is_led_to_the_server(known: Galley, client: str) -> None:
    lines = known("connect", client).stdout

    assert URL in lines
    assert f"{URL}/v1/v1" not in lines
    assert "$key" not in lines
    assert "$api" not in lines


def test_the_server_and_the_key_can_be_given(galley: Galley) -> None:
    given = ("--server", "https://ai.example/v1", "--key", "gk_given", "--show-key")

    shown = galley("connect", "anthropic", *given).stdout

    assert "export ANTHROPIC_BASE_URL=https://ai.example\n" in shown
    assert "export ANTHROPIC_API_KEY=gk_given\n" in shown


def test_the_configuration_of_codex_is_toml(known: Galley) -> None:
    found = tomllib.loads(known("connect", "codex").stdout)

    provider = found["model_providers"][found["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{URL}/v1", "responses")


@pytest.mark.parametrize("client", ["langchain", "llamaindex", "pydantic-ai", "instructor"])
def test_lines_of_python_are_python_whatever_the_key_holds(galley: Galley, client: str) -> None:
    lines = galley("connect", client, "--key", "a\"b'c\\d", "--show-key").stdout

    compile(lines, client, "exec")


def test_lines_of_shell_keep_what_a_key_holds_from_the_shell(galley: Galley) -> None:
    lines = galley("connect", "openai", "--key", "a b; $(rm x)", "--show-key").stdout

    assert lines.endswith("export OPENAI_API_KEY='a b; $(rm x)'\n")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nonsense"], 2, "`galley connect` lists"),
        (["openai", "--server", "nonsense"], 2, "is not a server's address"),
        (["openai", "--show-key"], 1, "No key is known"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    galley: Galley, words: list[str], status: int, said: str
) -> None:
    refused = galley("connect", *words)

    assert refused.exit_code == status
    assert said in refused.stderr
    assert refused.stdout == ""
