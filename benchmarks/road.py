"""What knowing the caller costs: CPU of a chat request with everything on, and on the bare road.

Everything is the key, seven limits, tokens and money among them, a price, metrics, and a row in
the ledger that is on disk before the answer leaves. The model answers at once.

python -m benchmarks.road
"""

import asyncio
import json
from functools import partial

import psutil

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, added, faster, take_turns
from benchmarks.load import dice, text
from benchmarks.main import main
from benchmarks.road_server import MODEL
from benchmarks.servers import Server, bill, road

REQUESTS = 3_000
CLIENTS = 64
AT_MOST_MS = 0.10
BODY = json.dumps(
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": text(65, dice(1))},
        ],
        "temperature": 0.7,
        "max_tokens": 100,
    }
).encode()


async def run(rounds: int) -> list[Finding]:
    """Send both servers the same requests in turns, and see what CPU they take."""
    findings: list[Finding] = []
    with road(bare=False) as ours, road(bare=True) as bare:
        bill(ours, MODEL)
        for clients in (CLIENTS, 16, 1):
            runs: dict[str, Run] = {
                "galley": partial(_cpu_s, ours, clients),
                "bare": partial(_cpu_s, bare, clients),
            }
            turns = await take_turns(runs, rounds)
            what = f"road: a chat request, {clients} at a time"
            if clients == CLIENTS:
                findings.append(added(what, turns, to="bare", at_most_ms=AT_MOST_MS))
            rates = {name: [1 / taken for taken in found] for name, found in turns.items()}
            findings.append(faster(what, rates, "requests/s of CPU", than="bare"))
    return findings


async def _cpu_s(server: Server, clients: int) -> float:
    """Seconds of CPU that the server takes for a request."""
    left = iter(range(REQUESTS))
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()

    async def client() -> None:
        async with Connection(server.url, server.key) as connection:
            for _ in left:
                await connection.post("/v1/chat/completions", BODY)

    await asyncio.gather(*(client() for _ in range(clients)))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / REQUESTS


if __name__ == "__main__":
    main({"road": run}, __doc__)
