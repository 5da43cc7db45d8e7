"""Clients of all kinds, as their users set them up, against the embedded model and a gateway.

Each runs in an environment of its own (`scripts/compat-clients`) and knows the server by the lines
of `galley connect` alone.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.compat.connecting import NODE, clean_environment, connected
from tests.serving import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compat-clients")]

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"
ASPECTS = frozenset({"chat", "stream", "tools", "structured", "image", "embeddings", "error"})


class Script(NamedTuple):
    """A client: its script, the lines that it is connected by, and what it cannot do."""

    file: str
    connected: str
    cannot: frozenset[str] = frozenset()
    environment: str = "compat"


def without(*aspects: str) -> frozenset[str]:
    return frozenset(aspects)


SCRIPTS = {
    "openai": Script("openai_sync.py", "openai"),
    "openai-async": Script("openai_async.py", "openai"),
    "openai-node": Script("openai_sdk.mjs", "openai"),
    "anthropic": Script("anthropic_sync.py", "anthropic", without("embeddings")),
    "anthropic-node": Script("anthropic_sdk.mjs", "anthropic", without("embeddings")),
    "langchain": Script("langchain_models.py", "langchain"),
    "langchain-anthropic": Script("langchain_claude.py", "anthropic", without("embeddings")),
    "llamaindex": Script("llamaindex_models.py", "llamaindex", environment="compat-older"),
    "pydantic-ai": Script("pydantic_agents.py", "pydantic-ai"),
    "instructor": Script(
        "instructor_models.py", "instructor", without("embeddings"), "compat-older"
    ),
    "ai-sdk": Script("ai_sdk.mjs", "ai-sdk"),
    "llm": Script("llm_command.py", "llm", without("tools", "embeddings")),
}

Told = Callable[[str, str], Any]


@pytest.fixture(scope="session", params=["live_server", "gateway"], ids=["embedded", "gateway"])
def told(
    request: pytest.FixtureRequest, clients: None, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """Give what a client says of an aspect; its script is run once."""
    server: LiveServer = request.getfixturevalue(request.param)
    known: dict[str, dict[str, Any]] = {}

    def tell(name: str, aspect: str) -> Any:
        if name not in known:
            known[name] = run(SCRIPTS[name], server, tmp_path_factory.mktemp(name))
            assert known[name].keys() == ASPECTS - SCRIPTS[name].cannot
        found = known[name][aspect]
        if isinstance(found, dict) and "failed" in found:
            pytest.fail(found["failed"], pytrace=False)
        return found

    return tell


def run(script: Script, server: LiveServer, folder: Path) -> dict[str, Any]:
    """Connect the client as `galley connect` says, and run its script."""
    lines = connected(script.connected, server)
    environment = clean_environment(folder)
    if script.file.endswith(".mjs"):
        command = [NODE, "--input-type=module"]
        text = (HERE / "node" / script.file).read_text()
    else:
        command = [str(CACHE / script.environment / "bin" / "python"), "-W", "ignore", script.file]
        text = ""
    if lines["language"] == "js":
        text = lines["lines"] + text
    elif lines["language"] == "python":
        (folder / "connected.py").write_text(lines["lines"])
    before = lines["lines"] if lines["language"] == "sh" else ""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{before}\nexec {shlex.join(command)}"],
        cwd=HERE / ("node" if text else "clients"),
        env=environment | {"PATH": f"{CACHE / 'compat' / 'bin'}{os.pathsep}{environment['PATH']}"},
        input=text, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def only(aspect: str) -> pytest.MarkDecorator:
    names = [name for name, script in SCRIPTS.items() if aspect not in script.cannot]
    return pytest.mark.parametrize("name", names)


@only("chat")
def test_an_answer_comes_whole_and_its_tokens_are_counted(told: Told, name: str) -> None:
    answer = told(name, "chat")

    assert "FastAPI" in answer["text"]
    assert 5 < answer["tokens"] <= 60


@only("stream")
def test_an_answer_comes_in_pieces(told: Told, name: str) -> None:
    pieces = told(name, "stream")

    assert len(pieces) > 5
    assert "FastAPI" in "".join(pieces)


@only("tools")
def test_a_forced_call_is_a_valid_call(told: Told, name: str) -> None:
    call = told(name, "tools")

    assert call["name"] in {"get_weather", "Place"}
    assert set(call["arguments"]) == {"city"}
    assert call["arguments"]["city"] in {"Paris", "Oslo"}


@only("structured")
def test_an_answer_has_the_shape_that_was_asked_for(told: Told, name: str) -> None:
    assert told(name, "structured") in ({"city": "Paris"}, {"city": "Oslo"})


@only("image")
def test_a_picture_is_seen(told: Told, name: str) -> None:
    assert "cat" in told(name, "image").lower()


@only("embeddings")
def test_texts_that_mean_the_same_are_near(told: Told, name: str) -> None:
    vectors = told(name, "embeddings")

    assert vectors["dimensions"] == 384
    assert vectors["near"] > vectors["far"] + 0.3


@only("error")
def test_a_refusal_says_why(told: Told, name: str) -> None:
    refusal = told(name, "error")

    assert refusal["kind"] in {"404", "exit 1"} or refusal["kind"].endswith("NotFoundError")
    assert "no-such-model" in refusal["message"]
