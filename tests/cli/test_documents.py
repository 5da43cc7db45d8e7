"""`galley documents` against a real server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import environment, run
from tests.documents import make_docx, make_pdf
from tests.serving import LiveServer

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]

TIDES = "# Tides\n\nThe moon pulls the sea, and twice a day the water rises."


@pytest.fixture
def documents(live_server: LiveServer, tmp_path: Path) -> Run:
    """Run `galley documents` as a user of their own."""
    key = live_server.key_of_new_user()
    env = environment(tmp_path, base_url=live_server.url, api_key=key)
    return lambda *words: run("documents", *words, env=env)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them."""
    folder = tmp_path / "papers"
    (folder / "more" / ".git").mkdir(parents=True)
    (folder / "tides.md").write_text(TIDES)
    (folder / "more" / "tides.md").write_text("The other one.")
    (folder / "more" / "bread.PDF").write_bytes(make_pdf("# Bread\n\nThe dough has to rest."))
    (folder / "letter.docx").write_bytes(make_docx("# Letter\n\nDear landlady,"))
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "more" / ".git" / "notes.txt").write_text("hidden")
    return folder


def rows(shown: Result) -> Any:
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def test_a_folder_is_walked_and_what_is_in_it_found(documents: Run, folder: Path) -> None:
    added = rows(documents("add", folder, "--json"))
    found = documents("search", "Why does the water rise?")

    assert added["failed"] == []
    assert [document["name"] for document in added["documents"]] == [
        "letter.docx", "more/bread.PDF", "more/tides.md", "tides.md",
    ]  # fmt: skip
    assert {document["status"] for document in added["documents"]} == {"indexed"}
    assert "tides.md" in found.stdout.splitlines()[1]
    assert "The moon pulls the sea" in found.stdout


def test_what_cannot_be_read_is_named_and_does_not_stop_the_rest(
    documents: Run, folder: Path
) -> None:
    (folder / "a.pdf").write_bytes(b"%PDF-1.7 broken")

    shown = documents("add", folder / "a.pdf", folder / "tides.md")

    assert shown.returncode == 1
    assert "a.pdf: The PDF is damaged." in shown.stderr
    assert "tides.md" in shown.stdout


def test_what_is_named_the_same_is_replaced_if_that_is_asked(documents: Run, folder: Path) -> None:
    file = folder / "tides.md"
    (first,) = rows(documents("add", file, "--replace", "--json"))["documents"]
    file.write_text("Everything is different now.")

    (second,) = rows(documents("add", file, "--replace", "--json"))["documents"]

    assert second["id"] == first["id"]
    assert len(rows(documents("ls", "--json"))) == 1
    assert rows(documents("search", "different", "--json", "--limit", 1))[0]["text"] == (
        "Everything is different now."
    )


def test_documents_are_deleted_by_id_and_by_name(documents: Run, folder: Path) -> None:
    added = rows(documents("add", folder, "--json"))["documents"]
    rows(documents("add", folder / "tides.md", "--json"))

    shown = documents("rm", added[0]["id"], "more/tides.md")
    twice = documents("rm", "tides.md")
    never = documents("rm", "nothing")

    assert shown.returncode == 0, shown.stderr
    listed = documents("ls").stdout
    assert "letter.docx" not in listed
    assert "more/tides.md" not in listed
    assert "bread.PDF" in listed
    assert "Several documents are named 'tides.md'" in twice.stderr
    assert "No document is named 'nothing'" in never.stderr


def test_a_folder_without_documents_is_wrong_usage(documents: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert documents("add", tmp_path / "empty").returncode == 2


def test_a_collection_that_is_not_there_ends_it(documents: Run, folder: Path) -> None:
    shown = documents("add", folder / "tides.md", "--collection", "nowhere")

    assert shown.returncode == 1
    assert "There is no collection 'nowhere'" in shown.stderr
