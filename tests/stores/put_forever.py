"""Add and replace documents, printing the id and version of each that was told to be there.

Each version of a document is a number of passages that all say the version.

python put_forever.py FILE|URL
"""

import asyncio
import os
import sys
from itertools import count

from galley.db.tables import new_id
from galley.stores.passages import Collection
from tests.stores.library import Store, add, collect, open_store

PASSAGES = 12
WRITERS = 4


def sentences(version: int) -> list[str]:
    return [f"Sentence {n} of version v{version}." for n in range(PASSAGES)]


async def write(store: Store, library: Collection, document_id: str) -> None:
    for version in count():
        await add(store, library, str(version), sentences(version), document_id=document_id)
        os.write(1, f"{document_id} {version}\n".encode())


async def main(place: str) -> None:
    async with open_store(place) as store:
        library = await collect(store, "ann")
        await asyncio.gather(*(write(store, library, new_id()) for _ in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
