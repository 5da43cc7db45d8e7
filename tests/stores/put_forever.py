"""Add and replace documents, printing the id and version of each that was told to be there.

Each version of a document is a number of passages that all say the version.

python put_forever.py FILE
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from galley.db.tables import new_id
from galley.stores.passages import Collection
from galley.stores.passages_sqlite import SqlitePassages, open_passages
from tests.stores.library import add, collect

PASSAGES = 12
WRITERS = 4


def sentences(version: int) -> list[str]:
    return [f"Sentence {n} of version v{version}." for n in range(PASSAGES)]


async def write(store: SqlitePassages, library: Collection, document_id: str) -> None:
    for version in count():
        await add(store, library, str(version), sentences(version), document_id=document_id)
        os.write(1, f"{document_id} {version}\n".encode())


async def main(path: Path) -> None:
    async with open_passages(path, memory_bytes=10**8) as store:
        library = await collect(store, "ann")
        await asyncio.gather(*(write(store, library, new_id()) for _ in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
