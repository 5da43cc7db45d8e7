"""Settle requests, and print the id of each once it is recorded, until killed.

One request is opened before all others and never settles: it is on disk before the first id is
printed, because batches are committed in order.

python settle_forever.py DATABASE_URL
"""

import asyncio
import os
import sys
from random import Random

from galley.db.ledger import OPEN_AFTER_S, Ledger
from galley.db.record import Record
from galley.db.session import open_database
from galley.db.tables import new_id

INSTANCE = new_id()


async def client(ledger: Ledger, random: Random) -> None:
    user_id, key_id = new_id(), new_id()
    while True:
        record = Record(new_id(), INSTANCE, user_id, key_id, "chat/completions")
        ledger.open(record)
        await asyncio.sleep(random.random() * 2 * OPEN_AFTER_S)
        record.state, record.status, record.completion_tokens = "completed", 200, 3
        await ledger.settle(record)
        os.write(1, f"{record.request_id}\n".encode())


async def main(url: str) -> None:
    async with open_database(url) as database:
        ledger = Ledger(database)
        ledger.open(Record(new_id(), INSTANCE, new_id(), new_id(), "lasting"))
        await asyncio.sleep(2 * OPEN_AFTER_S)
        await asyncio.gather(*(client(ledger, Random(n)) for n in range(256)))  # noqa: S311 - not a secret


asyncio.run(main(sys.argv[1]))
