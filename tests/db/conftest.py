"""What the tests of this room share: databases of both makes, and a ledger."""

from collections.abc import AsyncGenerator

import pytest

from galley.db.ledger import Ledger
from galley.db.session import Database
from tests.databases import database, database_url, postgres_server, postgresql_url, sqlite_url

__all__ = ["database", "database_url", "postgres_server", "postgresql_url", "sqlite_url"]


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    """A ledger on the test's database."""
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()
