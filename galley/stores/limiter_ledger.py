"""What the ledger says of a counter, asked once however many want to know at the same time."""

import asyncio
from datetime import datetime

from galley.core.limits import Counter
from galley.stores.limiter import Spent


class LedgerReader:
    """Asks `spent`; whoever comes while it is being asked waits for the same answer."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._asked: dict[tuple[Counter, datetime], asyncio.Task[int]] = {}

    async def read(self, counter: Counter, since: datetime) -> int:
        """What was used of `counter` since that moment. Raises what `spent` raises."""
        asked = self._asked.get((counter, since))
        if asked is None:
            asked = asyncio.create_task(self._ask(counter, since))
            self._asked[counter, since] = asked
        # One who hangs up must not end it for the others.
        return await asyncio.shield(asked)

    async def _ask(self, counter: Counter, since: datetime) -> int:
        try:
            return await self._spent(counter, since)
        finally:
            del self._asked[counter, since]
