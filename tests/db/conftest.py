"""What the tests of this room share: a ledger."""

from collections.abc import AsyncGenerator

import pytest

from galley.db.ledger import Ledger
from galley.db.session import Database


@pytest.fixture
async def ledger(database: Database) -> AsyncGenerator[Ledger]:
    """A ledger on the test's database."""
    ledger = Ledger(database)
    yield ledger
    await ledger.aclose()
