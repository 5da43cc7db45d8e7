"""How soon Galley answers after its start, and how much memory it holds when idle.

python -m benchmarks.start
"""

import asyncio
import time

import psutil

from benchmarks.connection import Connection
from benchmarks.findings import Finding, below
from benchmarks.main import main
from benchmarks.servers import CHAT, Server, galley, wait_for

SETTLE_S = 2.0
MB = 1e6


async def run(rounds: int) -> list[Finding]:
    """Start Galley again and again, its models at hand and its data directory empty."""
    live: list[float] = []
    first: list[float] = []
    server_rss: list[float] = []
    engines_rss: list[float] = []
    for _ in range(rounds + 1):  # the first start fills the disk's cache and is not counted
        with galley(ready=False) as server:
            wait_for(server, "/health/live")
            live.append(time.perf_counter() - server.started)
            wait_for(server, "/health/ready")
            first.append(await _first_token(server))
            await asyncio.sleep(SETTLE_S)
            process = psutil.Process(server.process.pid)
            server_rss.append(process.memory_info().rss / MB)
            engines_rss.append(
                sum(c.memory_info().rss for c in process.children(recursive=True)) / MB
            )
    total = [a + b for a, b in zip(server_rss, engines_rss, strict=True)]
    return [
        below("start: until /health/live", live[1:], "s", 3),
        below("start: until the first chat token", first[1:], "s", 10),
        below("memory: server, ONNX models included", server_rss[1:], "MB"),
        below("memory: llama.cpp child", engines_rss[1:], "MB"),
        below("memory: together, idle", total[1:], "MB", 700),
    ]


async def _first_token(server: Server) -> float:
    question = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "What is FastAPI?"}],
        "max_tokens": 8,
        "stream": True,
    }
    async with Connection(server.url, server.key) as connection:
        async for event in connection.events("/v1/chat/completions", question):
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                return time.perf_counter() - server.started
    raise RuntimeError("the answer has no text")


if __name__ == "__main__":
    main({"start": run}, __doc__)
