"""`galley migrate`: all of an installation on SQLite, on PostgreSQL."""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from alembic import command
from sqlalchemy import func, select

from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.settings import Settings
from galley.db import migrations
from galley.db.engine import parse_url
from galley.db.moving import Moved, MovingError, agreed
from galley.db.session import open_database
from galley.db.tables import ApiRequest, Tier, User
from galley.services.moving import move
from tests.cli.conftest import Galley
from tests.cli.office import read
from tests.serving import make_settings, serving
from tests.sqlite_file import put_sqlite

MODEL = "all-minilm-l6-v2"
PAGES = {
    "tides.md": "# Tides\n\nThe moon pulls the sea towards itself, and the water rises.",
    "bread.md": "# Bread\n\nThe dough has to rest overnight, and the oven is heated first.",
}
QUESTION = {"query": "what makes the water rise?", "detail": "true", "limit": "2"}


@dataclass
class Installation:
    """What a server left behind, and what it had answered."""

    settings: Settings
    key: str
    answers: Mapping[str, Any]

    @property
    def url(self) -> str:
        return self.settings.database_url.get_secret_value()

    @property
    def passages(self) -> Path:
        return self.settings.data_dir / "passages.db"


def in_silence(_: str, __: int, ___: int) -> None:
    """Tell nobody how far it is."""


def with_one_model(data_dir: Path, models_dir: Path, **more: Any) -> Settings:
    models = {MODEL: EMBEDDED_MODELS[MODEL]}
    return make_settings(data_dir, models_dir, embedded_models=False, models=models, **more)


def asked(api: httpx2.Client) -> dict[str, Any]:
    """What a user sees of their installation."""
    return {
        "found": api.get("/v1/retrieve", params=QUESTION).json()["passages"],
        "documents": api.get("/v1/documents").json()["data"],
        "files": api.get("/v1/files").json()["data"],
        "keys": api.get("/v1/keys").json()["data"],
        "tiers": api.get("/v1/admin/tiers").json(),
    }


@pytest.fixture(scope="module")
def installation(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A server on SQLite that was used, and stopped."""
    settings = with_one_model(tmp_path_factory.mktemp("old"), models_dir)
    with serving(settings) as server:
        server.until_ready()
        for name, text in PAGES.items():
            made = server.post("/v1/documents", name=name, text=text, metadata={"year": 2026})
            assert made.status_code == 201, made.text
        file = {"file": ("notes.txt", b"one\ntwo", "text/plain")}
        server.client.post("/v1/files", files=file, data={"purpose": "user_data"})
        server.key_of_new_user()
        server.new_tier(limits={"requests_per_minute": 7})
        answers = asked(server.client)
    return Installation(settings, server.key, answers)


@pytest.fixture
def at_home(installation: Installation, monkeypatch: pytest.MonkeyPatch, galley: Galley) -> Galley:
    """The command line of the installation."""
    monkeypatch.setenv("GALLEY_DATA_DIR", str(installation.settings.data_dir))
    return galley


def test_a_moved_installation_answers_as_before_to_the_same_key(
    at_home: Galley, installation: Installation, postgresql_url: str, models_dir: Path
):
    printed = read(at_home("migrate", "--to", postgresql_url, "--json"))

    with closing(sqlite3.connect(installation.settings.data_dir / "galley.db")) as old:
        requests, tokens = old.execute(
            "SELECT count(*), sum(prompt_tokens) FROM api_requests"
        ).fetchone()
    moved = {table["name"]: table for table in printed}
    assert moved["api_requests"]["rows"] == requests > 2
    assert moved["api_requests"]["sums"]["prompt_tokens"] == tokens > 0
    assert moved["users"]["rows"] == 2
    assert (moved["documents"]["rows"], moved["passages"]["rows"]) == (2, 2)
    settings = with_one_model(
        installation.settings.data_dir, models_dir,
        database_url=postgresql_url, bootstrap_key=installation.settings.bootstrap_key,
    )  # fmt: skip
    with serving(settings) as server:
        server.until_ready()
        answers = asked(server.client)
        added = server.post("/v1/documents", name="new.md", text="The moon again.")
    before = dict(installation.answers)
    for found, expected in zip(answers.pop("found"), before.pop("found"), strict=True):
        assert found == {
            **expected, "dense": pytest.approx(expected["dense"], abs=1e-5),
            "bm25": pytest.approx(expected["bm25"], abs=1e-5),
        }  # fmt: skip
    assert answers == {
        name: value for name, value in installation.answers.items() if name != "found"
    }
    assert added.status_code == 201


def test_what_is_printed_names_every_table_with_its_rows_and_sums(
    at_home: Galley, postgresql_url: str
):
    result = at_home("migrate", "--to", postgresql_url)

    assert result.exit_code == 0, result.stderr
    assert "prompt_tokens" in result.stdout
    for name in ("users", "api_requests", "usage_daily", "document_versions", "passages"):
        assert name in result.stdout
    assert "GALLEY_DATABASE_URL" in result.stderr


def test_a_second_move_to_the_same_database_is_refused_and_changes_nothing(
    at_home: Galley, postgresql_url: str
):
    at_home("migrate", "--to", postgresql_url)

    again = at_home("migrate", "--to", postgresql_url)

    assert again.exit_code == 1
    assert "has something in it already" in again.stderr


def test_nothing_is_moved_while_the_server_runs(
    galley: Galley, data_dir: Path, models_dir: Path, postgresql_url: str
):
    with serving(make_settings(data_dir, models_dir, embedded_models=False)):
        result = galley("migrate", "--to", postgresql_url)

    assert result.exit_code == 2
    assert "Another server is using" in result.stderr


def test_a_database_of_another_version_is_not_moved(
    galley: Galley, data_dir: Path, postgresql_url: str
):
    url = f"sqlite:///{data_dir}/galley.db"
    put_sqlite(url)
    command.downgrade(migrations.config(parse_url(url)), "0009")

    result = galley("migrate", "--to", postgresql_url)

    assert result.exit_code == 2
    assert "another version (0009" in result.stderr


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("sqlite:////tmp/other.db", "has to name a PostgreSQL database"),
        ("postgresql://nobody@127.0.0.1:1/galley", "cannot be opened"),
        ("nonsense", "is not a URL"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused_with_the_reason(
    at_home: Galley, target: str, reason: str
):
    result = at_home("migrate", "--to", target)

    assert result.exit_code == 2
    assert reason in result.stderr


def test_an_installation_that_was_never_started_is_not_moved(galley: Galley, postgresql_url: str):
    result = galley("migrate", "--to", postgresql_url)

    assert result.exit_code == 2
    assert "galley serve" in result.stderr


@pytest.mark.parametrize("at", ["tiers", "api_requests", "passages"])
def test_a_move_that_breaks_off_leaves_the_target_empty_and_is_simply_run_again(
    installation: Installation, postgresql_url: str, at: str
):
    def break_off(name: str, done: int, of: int) -> None:
        if name == at and done == of:
            raise RuntimeError("the cable")

    async def counts() -> tuple[int, int]:
        async with open_database(postgresql_url) as database, database.sessions() as session:
            users = await session.scalar(select(func.count()).select_from(User))
            tiers = await session.scalar(select(func.count()).select_from(Tier))
            return users or 0, tiers or 0

    with pytest.raises(RuntimeError, match="the cable"):
        asyncio.run(move(installation.url, postgresql_url, installation.passages, break_off))

    assert asyncio.run(counts()) == (0, 3)
    moved = asyncio.run(move(installation.url, postgresql_url, installation.passages, in_silence))
    assert asyncio.run(counts()) == (2, 4)
    assert ApiRequest.__tablename__ in {table.name for table in moved}


def test_a_table_that_did_not_arrive_whole_is_named_with_both_sums():
    before, after = Moved("api_requests", 3, {"cost": 30}), Moved("api_requests", 3, {"cost": 29})

    with pytest.raises(MovingError, match=r"api_requests.*30.*29"):
        agreed(before, after)
