import pytest

from galley.db.definitions import Kind, add_definition, current_definitions, last_definitions
from galley.db.session import Database

pytestmark = pytest.mark.anyio

HISTORY: list[tuple[Kind, str, dict[str, int] | None]] = [
    ("route", "smart", {"n": 1}), ("route", "old", {"n": 1}), ("model", "smart", {"n": 9}),
    ("route", "smart", {"n": 2}), ("route", "old", None), ("route", "a", {"n": 3}),
]  # fmt: skip


async def test_of_each_name_the_latest_definition_counts_unless_it_is_gone(
    database: Database,
) -> None:
    async with database.sessions.begin() as session:
        for kind, name, spec in HISTORY:
            await add_definition(session, kind=kind, name=name, spec=spec)

    async with database.sessions() as session:
        found = await current_definitions(session)
        history = await last_definitions(session, kind="route", name="smart", limit=5)

    assert sorted((row.kind, row.name, row.spec) for row in found) == [
        ("model", "smart", {"n": 9}), ("route", "a", {"n": 3}), ("route", "smart", {"n": 2}),
    ]  # fmt: skip
    assert [row.spec for row in history] == [{"n": 2}, {"n": 1}]
