"""Coding agents, as their users set them up: they call tools, and send long prompts."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat.connecting import NODE, clean_environment, connected
from tests.loopback import Script, events, scripted_server
from tests.routers.test_far_models import far, streamed
from tests.serving import LiveServer, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("compat-clients"),
    pytest.mark.usefixtures("clients"),
]

PROGRAMS = Path(__file__).parent / "agents" / "node_modules"
QUESTION = "What does note.txt say?"
ANSWER = "The note says ahoy."
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Agent:
    """A program and the words that make it answer and end.

    `too_long` is what it says of a prompt that the model cannot read whole.
    """

    name: str
    program: tuple[str, ...]
    tool: str
    call: Callable[[Path], dict[str, Any]]
    too_long: str


AGENTS = [
    Agent(
        "claude-code",
        (str(PROGRAMS / "@anthropic-ai/claude-code/cli-wrapper.cjs"), "-p"),
        "Read",
        lambda note: {"file_path": str(note)},
        "This model's context is 2048 tokens",
    ),
    Agent(
        "codex",
        # Its sandbox needs what a container may not allow; the one command here is our own.
        (
            str(PROGRAMS / "@openai/codex/bin/codex.js"),
            *("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"),
        ),
        "exec_command",
        lambda note: {"cmd": f"cat {note.name}"},
        "ran out of room in the model's context window",
    ),
]


def run(agent: Agent, server: LiveServer, home: Path, *words: str, **more: str) -> Done:
    """Connect the agent as `galley connect` says, and ask it in a folder with a note."""
    folder = home / "work"
    folder.mkdir()
    (folder / "note.txt").write_text("ahoy\n")
    lines = connected(agent.name, server)
    environment = clean_environment(home) | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"} | more
    before = lines["lines"]
    if lines["language"] == "toml":
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").write_text(before)
        environment["GALLEY_API_KEY"], before = server.key, ""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'{before}\nexec "$@"', "bash", NODE, *agent.program,
         *words],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def called(tool: str, arguments: dict[str, Any]) -> bytes:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    return events(json.dumps({"choices": [choice]}), "[DONE]")


def messages(upstream: Script) -> list[list[dict[str, Any]]]:
    bodies = [request.partition(b"\r\n\r\n")[2] for request in upstream.requests]
    return [json.loads(body)["messages"] for body in bodies]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_a_tool_is_called_and_its_result_is_told_to_the_model(agent: Agent, tmp_path: Path) -> None:
    call = called(agent.tool, agent.call(tmp_path / "work" / "note.txt"))
    with (
        scripted_server(call, streamed(ANSWER)) as upstream,
        serving(far(upstream.base_url, tmp_path / "data", context=200_000)) as server,
    ):
        server.until_ready()
        done = run(agent, server, tmp_path, QUESTION)

    assert done.returncode == 0, done.stdout + done.stderr
    assert ANSWER in done.stdout
    first, second = messages(upstream)
    assert [message["role"] for message in first if message["role"] == "system"] == ["system"]
    assert QUESTION in str(first[-1]["content"])
    assert second[-1]["role"] == "tool"
    assert "ahoy" in second[-1]["content"]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_a_model_that_reads_less_than_an_agent_says_is_named_as_the_reason(
    agent: Agent, live_server: LiveServer, tmp_path: Path
) -> None:
    done = run(agent, live_server, tmp_path, QUESTION)

    assert done.returncode != 0
    assert agent.too_long in done.stdout + done.stderr


def test_the_embedded_model_answers_an_agent_that_says_little(
    live_server: LiveServer, tmp_path: Path
) -> None:
    claude = AGENTS[0]

    done = run(
        claude, live_server, tmp_path,
        "What is the capital of France?", "--system-prompt", "Be brief.", "--tools", "",
        "--output-format", "json", CLAUDE_CODE_MAX_OUTPUT_TOKENS="200",
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert "Paris" in answer["result"]
    assert 0 < answer["usage"]["output_tokens"] <= 200
