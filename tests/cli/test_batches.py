"""`galley batches`: a file in, files out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Galley
from tests.cli.program import environment, run
from tests.routers.batch_files import embedding_lines, jsonl
from tests.serving import LiveServer


@pytest.fixture
def to(live_server: LiveServer) -> list[str]:
    """The options that lead to a server, as a user of their own."""
    return ["--server", live_server.url, "--key", live_server.key_of_new_user()]


def write(folder: Path, lines: list[Any]) -> Path:
    path = folder / "texts.jsonl"
    path.write_bytes(jsonl(lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_answers_to_a_file_are_written_beside_it(
    galley: Galley, to: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path, embedding_lines(3))
    (tmp_path / "texts.errors.jsonl").write_text("of an earlier run")

    shown = galley("batches", "run", file, *to)

    assert shown.exit_code == 0
    assert "completed: 3 of 3 answered" in shown.stderr
    answers = read(tmp_path / "texts.output.jsonl")
    assert [line["custom_id"] for line in answers] == ["line-1", "line-2", "line-3"]
    assert not (tmp_path / "texts.errors.jsonl").exists()


def test_lines_that_failed_are_in_a_file_of_their_own(to: list[str], tmp_path: Path) -> None:
    file = write(tmp_path, [*embedding_lines(1), *embedding_lines(1, model="none")])
    lines = read(file)
    lines[1]["custom_id"] = "bad"
    write(tmp_path, lines)

    shown = run("batches", "run", file, "--json", *to, env=environment(tmp_path))

    told = json.loads(shown.stdout)
    assert told["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert told["written"] == [
        str(tmp_path / "texts.output.jsonl"),
        str(tmp_path / "texts.errors.jsonl"),
    ]
    (error,) = read(tmp_path / "texts.errors.jsonl")
    assert error["custom_id"] == "bad"
    assert error["response"]["status_code"] == 404


def test_a_file_that_is_no_batch_fails_with_the_line_at_fault(
    galley: Galley, to: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path, [*embedding_lines(2), b"hello"])

    shown = galley("batches", "run", file, *to)

    assert shown.exit_code == 1
    assert "line 3: The line is not valid JSON" in shown.stderr


@pytest.mark.parametrize("lines", [[], [b"hello"], [b"[]"], [{"custom_id": "1"}], [{"url": 1}]])
def test_a_file_without_requests_is_wrong_usage(
    galley: Galley, to: list[str], tmp_path: Path, lines: list[Any]
) -> None:
    shown = galley("batches", "run", write(tmp_path, lines), *to)

    assert shown.exit_code == 2
    assert "does not begin with a request" in shown.stderr


def test_a_file_that_is_not_there_is_wrong_usage(galley: Galley, tmp_path: Path) -> None:
    assert galley("batches", "run", tmp_path / "none.jsonl").exit_code == 2


def test_batches_are_listed_and_those_that_have_ended_are_not_cancelled(
    galley: Galley, to: list[str], tmp_path: Path
) -> None:
    galley("batches", "run", write(tmp_path, embedding_lines(2)), *to)

    table = run("batches", "ls", *to, env=environment(tmp_path)).stdout.splitlines()
    (batch,) = json.loads(run("batches", "ls", "--json", *to, env=environment(tmp_path)).stdout)
    refused = galley("batches", "cancel", batch["id"], *to)

    assert table[1].split() == [batch["id"], "completed", "/v1/embeddings", "2", "0", "2"]
    assert refused.exit_code == 1
    assert "cannot be cancelled" in refused.stderr
