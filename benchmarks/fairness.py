"""How long one chat waits behind another user's flood of long ones, in turns of a slot.

python -m benchmarks.fairness
"""

import asyncio
import json
import statistics
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from benchmarks.connection import Connection
from benchmarks.findings import Finding, below
from benchmarks.load import dice, text
from benchmarks.main import main
from benchmarks.servers import CHAT, Server, add_user, galley

PATH = "/v1/chat/completions"
FLOOD = 50
SLOTS = (1, 4)
LONG, SHORT = 96, 8  # tokens


async def run(rounds: int) -> list[Finding]:
    """Flood a model with few slots, and ask it once as somebody else."""
    findings: list[Finding] = []
    for slots in SLOTS:
        with galley(slots=slots) as server:
            other = add_user(server)
            waits = [await _wait(server, slots, other) for _ in range(rounds)]
        what = f"fairness: wait behind {FLOOD} long chats, {slots} slot{'s'[: slots - 1]}"
        findings.append(below(what, waits, "turns", 1.5))
    return findings


async def _wait(server: Server, slots: int, other: str) -> float:
    """Return how long the other's chat waited, in turns of the flood's chats that were served."""
    rng, done = dice(4), asyncio.Event()
    served: list[str] = []

    async def flood() -> None:
        served.append(await _chat(server, server.key, _request(text(40, rng), LONG)))
        if len(served) > slots:
            done.set()

    tasks = [asyncio.create_task(flood()) for _ in range(FLOOD)]
    async with Connection(server.url, server.key) as watch:
        waiting = f'galley_queue_length{{model="{CHAT}"}} {FLOOD - slots}.0'.encode()
        while waiting not in await watch.get("/metrics"):
            pass
        single = await _chat(server, other, _request("Is this a short question?", SHORT))
        await done.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        turns = [_turn_ms(timings) for timings in await _timings(watch, served)]
        (timings,) = await _timings(watch, [single])
        free = f'galley_slots_busy{{model="{CHAT}"}} 0.0'.encode()
        while free not in await watch.get("/metrics"):
            pass
    return timings["queued_ms"] / statistics.median(turns)


async def _chat(server: Server, key: str | None, request: dict[str, Any]) -> str:
    """Read an answer to its end; return its request's id."""
    identity = ""
    async with (
        Connection(server.url, key) as connection,
        aclosing(connection.events(PATH, request)) as events,
    ):
        async for event in events:
            identity = event["id"].removeprefix("chatcmpl-")
    return identity


async def _timings(watch: Connection, requests: Sequence[str]) -> list[dict[str, float]]:
    found = [json.loads(await watch.get(f"/v1/requests/{identity}")) for identity in requests]
    return [receipt["detail"]["timings"] for receipt in found]


def _turn_ms(timings: dict[str, float]) -> float:
    return timings["total_ms"] - timings["admitted_ms"] - timings["queued_ms"]


def _request(question: str, tokens: int) -> dict[str, Any]:
    return {
        "model": CHAT,
        "messages": [{"role": "user", "content": f"{question}\nWrite a long story about it."}],
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": {"0": -100, "2": -100},  # so that each is as long as it may be
        "stream": True,
    }


if __name__ == "__main__":
    main({"fairness": run}, __doc__)
