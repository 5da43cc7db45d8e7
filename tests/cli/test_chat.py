import json
import os
import pty
import select
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from galley.client.profile import Profile, save_profile
from tests.cli.conftest import Galley
from tests.cli.program import PROGRAM, environment
from tests.loopback import HANG, events, http, scripted_server

ANSWER = {
    "id": "c",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {},
}


def streamed(*pieces: str) -> bytes:
    chunks = [
        {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"content": p}}]}
        for p in pieces
    ]
    return events(*map(json.dumps, chunks), "[DONE]")


def asked(request: bytes) -> dict[str, Any]:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def test_the_answer_is_printed_as_it_is_and_the_options_are_sent(galley: Galley) -> None:
    with scripted_server(streamed("[bold]he", "llo[/]")) as server:
        shown = galley(
            "chat", "say", "hello", "--system", "be brief", "--max-tokens", 9, "--temperature", 0,
            "--model", "other", "--server", server.base_url, "--key", "gk_x",
        )  # fmt: skip

    assert shown.stdout == "[bold]hello[/]\n"
    assert asked(server.requests[0]) == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "say hello"},
        ],
        "max_tokens": 9,
        "temperature": 0.0,
        "stream": True,
    }
    assert b"gk_x" in server.requests[0]


def test_the_question_may_come_through_a_pipe(galley: Galley) -> None:
    with scripted_server(streamed("hi")) as server:
        galley("chat", "--server", server.base_url, stdin="two\nlines\n")

    assert asked(server.requests[0])["messages"] == [{"role": "user", "content": "two\nlines"}]


def test_json_is_the_whole_completion(galley: Galley) -> None:
    with scripted_server(http(json.dumps(ANSWER))) as server:
        shown = galley("chat", "hello", "--json", "--server", server.base_url)

    assert json.loads(shown.stdout)["choices"][0]["message"] == {"content": "hi"}


def test_no_question_is_wrong_usage(galley: Galley) -> None:
    shown = galley("chat", stdin="")

    assert shown.exit_code == 2
    assert "There is no question" in shown.stderr


def test_no_server_is_exit_code_3_and_one_line_with_the_next_step(galley: Galley) -> None:
    shown = galley("chat", "hello", "--server", "http://127.0.0.1:9")

    assert shown.exit_code == 3
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    assert "galley serve" in shown.stderr


def test_what_is_no_address_is_wrong_usage(galley: Galley) -> None:
    shown = galley("chat", "hello", "--server", "127.0.0.1:8000")

    assert shown.exit_code == 2
    assert "http://" in shown.stderr


def test_a_key_of_this_machine_that_no_longer_opens_is_named_with_the_cure(
    galley: Galley, data_dir: Path
) -> None:
    refusal = http('{"detail": "Invalid API key"}', status="401 Unauthorized")
    with scripted_server(refusal) as server:
        save_profile(data_dir / "client.toml", Profile(server.base_url, "gk_revoked"))
        shown = galley("chat", "hello")

    assert shown.exit_code == 1
    assert f"It is the one kept in {data_dir / 'client.toml'}. Put another there" in shown.stderr


def test_a_model_that_does_not_exist_is_an_error_that_says_where_the_others_are(
    galley: Galley,
) -> None:
    body = '{"error": {"message": "No model is called gpt-4.", "code": "model_not_found"}}'
    with scripted_server(http(body, status="404 Not Found")) as server:
        shown = galley("chat", "hello", "--model", "gpt-4", "--server", server.base_url)

    assert "galley models list" in shown.stderr


@pytest.mark.parametrize(
    ("refusal", "line"),
    [
        (
            http('{"detail": "Invalid API key"}', status="401 Unauthorized", request_id="0192"),
            "Error: Invalid API key. Pass a key with --key or GALLEY_API_KEY. (request 0192)\n",
        ),
        (
            http('{"error": {"message": "Full."}}', status="503 Unavailable", retry_after="2"),
            "Error: Full. Try again in 2 s.\n",
        ),
        (
            http(
                '{"error": {"message": "It broke off. Try again."}}',
                status="503 Unavailable",
                retry_after="1",
            ),
            "Error: It broke off. Try again in 1 s.\n",
        ),
        (
            http(
                '{"error": {"message": "The limit is reached. Try again in 58 s."}}',
                status="429 Too Many Requests",
                retry_after="58",
            ),
            "Error: The limit is reached. Try again in 58 s.\n",
        ),
    ],
)
def test_a_refusal_is_one_line_with_the_next_step(
    galley: Galley, refusal: bytes, line: str
) -> None:
    with scripted_server(refusal) as server:
        shown = galley("chat", "hello", "--server", server.base_url)

    assert shown.exit_code == 1
    assert shown.stderr == line


def test_an_answer_that_breaks_off_is_shown_and_then_an_error(galley: Galley) -> None:
    with scripted_server(streamed("half an ").replace(b"data: [DONE]\n\n", b"")) as server:
        shown = galley("chat", "hello", "--server", server.base_url)

    assert shown.stdout == "half an \n"
    assert shown.exit_code == 3
    assert "broke off" in shown.stderr


class Terminal:
    """A `galley chat` at a terminal: type, and wait for what it shows."""

    def __init__(self, server: str, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [PROGRAM, "chat", "--server", server],
            env=environment(folder) | {"TERM": "dumb"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def until(self, words: str, times: int = 1) -> None:
        """Wait until `words` were shown so many times."""
        while self.shown.count(words) < times:
            assert select.select([self._ours], [], [], 30)[0], self.shown
            self.shown += os.read(self._ours, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C once it waits; a signal on the way into a wait does not end that wait."""
        while psutil.Process(self.process.pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Press Ctrl-D and return the exit status."""
        self.type("\x04")
        return self.process.wait(30)

    def close(self) -> None:
        with self.process:
            self.process.kill()
        os.close(self._ours)


def test_a_conversation_remembers_its_turns_survives_a_refusal_and_ends_with_ctrl_d(
    tmp_path: Path,
) -> None:
    refusal = http('{"error": {"message": "Full."}}', status="503 Unavailable")
    with (
        scripted_server(streamed("I am ", "Galley."), refusal, streamed("Yes.")) as server,
        closing(Terminal(server.base_url, tmp_path)) as terminal,
    ):
        terminal.until("> ")
        terminal.type("who are you?\n")
        terminal.until("I am Galley.")
        terminal.until("> ", 2)
        terminal.type("too much\n")
        terminal.until("Full.")
        terminal.until("> ", 3)
        terminal.type("really?\n")
        terminal.until("Yes.")
        terminal.until("> ", 4)
        status = terminal.ended()

    assert status == 0
    assert asked(server.requests[2])["messages"] == [
        {"role": "user", "content": "who are you?"},
        {"role": "assistant", "content": "I am Galley."},
        {"role": "user", "content": "really?"},
    ]


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(tmp_path: Path) -> None:
    endless = [streamed("on and on").replace(b"data: [DONE]\n\n", b""), HANG]
    with (
        scripted_server(endless, streamed("Sorry.")) as server,
        closing(Terminal(server.base_url, tmp_path)) as terminal,
    ):
        terminal.until("> ")
        terminal.type("tell me everything\n")
        terminal.until("on and on")
        terminal.interrupt()
        terminal.until("> ", 2)
        assert server.hung_up.wait(5)
        terminal.type("stop\n")
        terminal.until("Sorry.")
        terminal.until("> ", 3)
        status = terminal.ended()

    assert status == 0
    assert [turn["content"] for turn in asked(server.requests[1])["messages"]] == [
        "tell me everything",
        "on and on",
        "stop",
    ]
