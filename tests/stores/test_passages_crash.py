"""What is left of a store of passages that was killed in the middle of its writing."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from galley.core.settings import SettingsError
from galley.stores.passages_sqlite import open_passages
from tests.stores.library import ask, open_store
from tests.stores.put_forever import PASSAGES, WRITERS, sentences

pytestmark = pytest.mark.anyio

PUT_FOREVER = Path(__file__).with_name("put_forever.py")
ENOUGH = 40


def kill_while_putting(place: str, after_s: float) -> dict[str, int]:
    """Kill a store under load; returns the last version of each document that it told of."""
    with subprocess.Popen(
        [sys.executable, PUT_FOREVER, place], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout
        lines = [writer.stdout.readline() for _ in range(ENOUGH)]
        time.sleep(after_s)
        writer.kill()
        lines += list(writer.stdout)
    told = [line.split() for line in lines]
    return {document_id: int(version) for document_id, version in told}


# Each falls into another step: a version, its passages, its being shown, the old one's deletion.
@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.009])
async def test_after_kill_9_every_document_is_there_whole(store_place: str, after_s: float):
    told = kill_while_putting(store_place, after_s)

    async with open_store(store_place) as store:
        library = await store.collection("ann", "library")
        assert library is not None
        documents = (await store.documents("ann")).rows
        found = await ask(store, library, "sentence of version", limit=100)
        await store.tidied()
    assert {document.id for document in documents} >= told.keys()
    assert len(documents) <= WRITERS
    for document in documents:
        texts = [passage.text for passage in found if passage.document_id == document.id]
        assert int(document.name) >= told.get(document.id, 0)
        assert sorted(texts) == sorted(sentences(int(document.name)))


async def test_nothing_is_left_in_the_file_of_what_was_half_done(tmp_path: Path):
    path = tmp_path / "passages.db"

    kill_while_putting(str(path), 0.002)

    async with open_store(str(path)) as store:
        whole = len((await store.documents("ann")).rows)
        await store.tidied()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM versions").fetchone() == (whole,)
        assert file.execute("SELECT count(*) FROM texts").fetchone() == (whole,)
        assert file.execute("SELECT count(*) FROM passages").fetchone() == (whole * PASSAGES,)
        assert file.execute("SELECT count(*) FROM trash").fetchone() == (0,)
        words = file.execute("SELECT count(*) FROM words WHERE words MATCH '1bsentence'")
        assert words.fetchone() == (whole * PASSAGES,)
        file.execute("INSERT INTO words (words) VALUES ('integrity-check')")


async def test_a_file_of_a_newer_galley_is_refused(tmp_path: Path):
    path = tmp_path / "passages.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")

    with pytest.raises(SettingsError, match="newer Galley"):
        async with open_passages(path, memory_bytes=0):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "passages.db"
    path.write_text("This is a letter, and not a database. " * 100)

    with pytest.raises(SettingsError, match="cannot be opened"):
        async with open_passages(path, memory_bytes=0):
            pass
