"""What the API adds to a raw engine call, one request at a time: key, ledger, HTTP and JSON.

python -m benchmarks.overhead
"""

import asyncio
import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, added, take_turns
from benchmarks.load import pictures
from benchmarks.main import main
from benchmarks.raw import RawClassifier, RawEmbedder
from benchmarks.servers import CHAT, EMBEDDINGS, Server, galley, llama

CALLS_PER_ROUND = 10
AT_MOST_MS = 3.0
TEXT = "What is FastAPI?"


async def run(rounds: int) -> list[Finding]:
    """Measure one call of each engine through Galley and without it, in turns."""
    picture = pictures()[0]
    embedder, classifier = RawEmbedder(1), RawClassifier(1)
    with galley() as ours, llama() as raw:
        chat = "/v1/chat/completions"
        pairs = {
            "embeddings": (
                _served(ours, "/v1/embeddings", lambda _: {"model": EMBEDDINGS, "input": TEXT}),
                _called(lambda: embedder.embed([TEXT])),
                "raw",
            ),
            "images": (
                _served(ours, "/v1/classify", lambda _: {"image": picture}),
                _called(lambda: classifier.classify([picture])),
                "raw",
            ),
            "chat": (_served(ours, chat, _question), _served(raw, chat, _question), "llama.cpp"),
        }
        findings: list[Finding] = []
        for name, (served, alone, base) in pairs.items():
            runs = {"galley": served, base: alone}
            turns = await take_turns(runs, rounds * CALLS_PER_ROUND)
            what = f"overhead: {name}, one call"
            findings.append(added(what, turns, to=base, at_most_ms=AT_MOST_MS))
    return findings


def _question(number: int) -> dict[str, Any]:
    """Never the same twice: llama.cpp remembers the last prompt of a slot."""
    turns = [{"role": "user", "content": f"{number} is a number. {TEXT}"}]
    return {"model": CHAT, "messages": turns, "max_tokens": 1, "stream": True}


def _served(server: Server, path: str, body: Callable[[int], dict[str, Any]]) -> Run:
    numbers = count(1)

    async def measure() -> float:
        sent = json.dumps(body(next(numbers))).encode()
        async with Connection(server.url, server.key) as connection:
            await connection.open()
            begin = time.perf_counter()
            await connection.post(path, sent)
            return time.perf_counter() - begin

    return measure


def _called(call: Callable[[], Any]) -> Run:
    def timed() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    async def measure() -> float:
        return await asyncio.to_thread(timed)

    return measure


if __name__ == "__main__":
    main({"overhead": run}, __doc__)
