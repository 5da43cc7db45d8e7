"""Log lines, as another process sees them."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

PROGRAM = """
import logging
import structlog
from galley.core.logging import answering, configure_logging
from galley.core.settings import Settings
configure_logging(Settings(log_format={format!r}, log_level={level!r}))
log = structlog.get_logger("test")
log.debug("quiet")
log.info("request_finished", request_id="r1", status=200)
logging.getLogger("some.library").warning("careful: %s", "x")
def answer(prompt):
    1 / 0
try:
    answer("gk_secret")
except ZeroDivisionError:
    log.exception("request_failed", request_id="r2")
answering.set("r3")
log.warning("engine_failed")
log.warning("job_failed", request_id="r4")
"""


def logged(format: str, level: str = "info") -> str:
    program = PROGRAM.format(format=format, level=level)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == ""
    return done.stderr


def test_lines_are_json_with_time_level_and_what_was_said() -> None:
    lines = [orjson.loads(line) for line in logged("auto").splitlines()]

    events = [(line["event"], line["level"]) for line in lines]
    assert events == [
        ("request_finished", "info"),
        ("careful: x", "warning"),
        ("request_failed", "error"),
        ("engine_failed", "warning"),
        ("job_failed", "warning"),
    ]
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["timestamp"].endswith("Z")
    assert lines[1]["logger"] == "some.library"
    assert lines[2]["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_a_line_names_the_request_that_is_being_answered_unless_it_names_one_itself() -> None:
    lines = [orjson.loads(line) for line in logged("json").splitlines()]

    named = {line["event"]: line.get("request_id") for line in lines}
    assert named["engine_failed"] == "r3"
    assert named["job_failed"] == "r4"
    assert named["careful: x"] is None


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_a_trace_names_lines_and_no_values(format: str) -> None:
    written = logged(format)

    assert "ZeroDivisionError" in written
    assert "gk_secret" not in written.replace('answer("gk_secret")', "")


def test_the_level_decides_what_is_written() -> None:
    assert '"quiet"' in logged("json", "debug")
    assert '"request_finished"' not in logged("json", "warning")


LAST_WORDS = """
import os, sys, time, structlog
from galley.core.logging import configure_logging
from galley.core.settings import Settings
configure_logging(Settings(log_format="json"))
log = structlog.get_logger("test")
log.info("first")
{then}
"""


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("sys.stdin.read(1); os._exit(1)", id="soon"),
        pytest.param("log.warning('second'); os._exit(1)", id="at once before a warning"),
        pytest.param("", id="at the end"),
    ],
)
def test_a_line_is_written(then: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LAST_WORDS.format(then=then)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None

        line = process.stderr.readline()

    assert orjson.loads(line)["event"] == "first"


def test_pretty_lines_are_for_people() -> None:
    text = logged("pretty")

    assert "request_finished" in text
    assert not text.startswith("{")


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has a disk that is always full"
)
def test_a_full_disk_under_the_log_stops_nobody() -> None:
    program = PROGRAM.format(format="json", level="info") + "print('done')"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, stderr=full
        )

    assert done.stdout == b"done\n"
