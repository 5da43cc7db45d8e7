"""What is left of llama.cpp's speed behind Galley: tokens per second, first token, hang-up.

python -m benchmarks.chat
"""

import asyncio
import time
from contextlib import aclosing
from random import Random
from typing import Any

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, added, below, faster, take_turns
from benchmarks.load import dice, text
from benchmarks.main import main
from benchmarks.servers import CHAT, Server, galley, llama

PATH = "/v1/chat/completions"
LEVELS = (1, 4, 16)
TOKENS = 48
PROMPT_WORDS = 40


async def run(rounds: int) -> list[Finding]:
    """Measure Galley and its llama.cpp child alone, with a slot for every client, in turns."""
    with galley(slots=max(LEVELS)) as ours, llama(slots=max(LEVELS)) as raw:
        findings = [await _throughput(ours, raw, level, rounds) for level in LEVELS]
        first = await take_turns(
            {"galley": _first_token(ours), "llama.cpp": _first_token(raw)}, rounds * 5
        )
        findings.append(added("chat: first token", first, to="llama.cpp", at_most_ms=10))
        freed = [await _hang_up(ours) for _ in range(rounds)]
        findings.append(below("chat: hang-up until the slot is free", freed, "ms", 100))
    return findings


async def _throughput(ours: Server, raw: Server, level: int, rounds: int) -> Finding:
    turns = await take_turns(
        {"galley": _tokens_per_second(ours, level), "llama.cpp": _tokens_per_second(raw, level)},
        rounds,
    )
    return faster(f"chat: {level} at once", turns, "tokens/s", than="llama.cpp", at_least=0.9)


def _tokens_per_second(server: Server, level: int) -> Run:
    rng = dice(1)  # both sides get the same prompts

    async def answer(connection: Connection) -> int:
        usage: dict[str, Any] = {}
        async for event in connection.events(PATH, _request(rng, TOKENS)):
            usage = event.get("usage") or usage
        return usage["completion_tokens"]

    async def measure() -> float:
        connections = [Connection(server.url, server.key) for _ in range(level)]
        begin = time.perf_counter()
        tokens = await asyncio.gather(*map(answer, connections))
        seconds = time.perf_counter() - begin
        for connection in connections:
            connection.close()
        return sum(tokens) / seconds

    return measure


def _first_token(server: Server) -> Run:
    rng = dice(2)

    async def measure() -> float:
        # A connection for each: llama.cpp now and then breaks off one that was used before.
        async with Connection(server.url, server.key) as connection:
            begin, first = time.perf_counter(), 0.0
            async for event in connection.events(PATH, _request(rng, 2)):
                if not first and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first = time.perf_counter() - begin
            return first

    return measure


async def _hang_up(server: Server) -> float:
    """Return how long a slot stays busy after its client is gone, in milliseconds."""
    free = f'galley_slots_busy{{model="{CHAT}"}} 0.0'.encode()
    async with Connection(server.url, server.key) as watch:
        client = Connection(server.url, server.key)
        async with aclosing(client.events(PATH, _request(dice(3), 1000))) as events:
            for _ in range(10):
                await anext(events)
            client.close()
            begin = time.perf_counter()
            while free not in await watch.get("/metrics"):
                pass
            return 1000 * (time.perf_counter() - begin)


def _request(rng: Random, tokens: int) -> dict[str, Any]:
    notes = text(PROMPT_WORDS, rng)
    question = f"Notes: {notes}.\nWrite a very long story that uses these notes."
    return {
        "model": CHAT,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


if __name__ == "__main__":
    main({"chat": run}, __doc__)
