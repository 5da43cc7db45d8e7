"""How long the event loop stands still while pictures are sent: whoever else asks waits as long.

python -m benchmarks.lag
"""

import asyncio
import base64
import json
import time
from dataclasses import dataclass

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, below, take_turns
from benchmarks.load import bodies, form, photograph, pictures
from benchmarks.main import main
from benchmarks.servers import PHOTOS, Server, watched

CLIENTS = 16
SECONDS = 3.0
MOST_MS = 50.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What so many clients send over and over."""

    path: str
    body: bytes
    kind: str = "application/json"
    clients: int = CLIENTS


def loads() -> dict[str, Sent]:
    """Return what is sent, by its name."""
    shots = pictures()
    batch = [shots[number % len(shots)] for number in range(32)]
    files = [PHOTOS[number % len(PHOTOS)].read_bytes() for number in range(32)]
    large = photograph()
    written = base64.b64encode(large).decode()
    (small, many, single, huge) = bodies(
        [
            {"image": shots[0]},
            {"images": [{"image": shot} for shot in batch]},
            {"image": written},
            {"images": [{"image": written}] * 7},
        ]
    )
    batch_form, kind = form(files)
    large_form, _ = form([large] * 7)
    return {
        "photographs": Sent("/v1/classify", small),
        "32 in a request": Sent("/v2/classify", many),
        "32 files in a form": Sent("/v2/classify", batch_form, kind),
        "24 megapixels": Sent("/v1/classify", single),
        "7 of 24 megapixels": Sent("/v2/classify", huge, clients=3),
        "7 of 24 megapixels in a form": Sent("/v2/classify", large_form, kind, clients=3),
    }


async def run(rounds: int) -> list[Finding]:
    """Send each kind of pictures for a while, in turns, and ask the server's clock."""
    with watched() as server:
        runs: dict[str, Run] = {"nothing": _load(server, None)}
        runs |= {name: _load(server, sent) for name, sent in loads().items()}
        turns = await take_turns(runs, rounds)
    return [
        below(f"loop held: {name}", found, "ms", None if name == "nothing" else MOST_MS)
        for name, found in turns.items()
    ]


def _load(server: Server, sent: Sent | None) -> Run:
    async def send() -> float:
        async with Connection(server.url) as clock:
            await clock.get("/lag")
            end = time.perf_counter() + SECONDS
            if sent is None:
                await asyncio.sleep(SECONDS)
            else:
                await asyncio.gather(*(_client(server, sent, end) for _ in range(sent.clients)))
            return float(json.loads(await clock.get("/lag"))["worst_ms"])

    return send


async def _client(server: Server, sent: Sent, end: float) -> None:
    async with Connection(server.url, server.key) as connection:
        while time.perf_counter() < end:
            await connection.post(sent.path, sent.body, sent.kind)


if __name__ == "__main__":
    main({"lag": run}, __doc__)
