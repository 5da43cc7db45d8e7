"""What a gateway costs between a client and a model server that answers at once.

Everything of Galley's is on: key, limits, budget, price, metrics, log, and a row in the ledger that
is on disk before the answer ends. The peers have on what they have. A gateway has one core to
itself, the model server and the load share another; CPU per request is the figure to trust.

python -m benchmarks.gateway
"""

import asyncio
import os
import re
import statistics
import sys
import time
from contextlib import ExitStack
from functools import partial

import psutil

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, above, added, below, faster, take_turns
from benchmarks.main import main
from benchmarks.servers import (
    Server,
    galley_gateway,
    has_litellm,
    litellm,
    mock_upstream,
    pass_through,
)

PATH = "/v1/chat/completions"
SECONDS = 2.0
STREAMS = 32
CHUNKS = 200
MB = 2**20
_WHOLE = (
    b'{"model":"mock","temperature":0.7,"max_tokens":100,"messages":[{"role":"system","content":'
    b'"You are a helpful assistant."},{"role":"user","content":"%s"}]}'
)
_FILLER = b"Which of these would most people agree with, and what do they say of it? "
BODY = _WHOLE % (_FILLER * 5)
_EVENT = re.compile(rb"^data: \{", re.MULTILINE)


def _stream_body(pause_ms: int) -> bytes:
    steer = b"chunks=%d delay_ms=%d" % (CHUNKS, pause_ms)
    return (_WHOLE % steer)[:-1] + b',"stream":true}'


async def run(rounds: int) -> list[Finding]:
    """Send all gateways the same requests in turns."""
    findings: list[Finding] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(mock_upstream())
        servers = {
            "galley": stack.enter_context(galley_gateway(upstream)),
            "pass-through": stack.enter_context(pass_through(upstream)),
        }
        if has_litellm():
            servers["LiteLLM"] = stack.enter_context(litellm(upstream))
        _pin({*(s.process.pid for s in servers.values())}, {os.getpid(), upstream.process.pid})
        for server in servers.values():
            await _cpu_s(server, 16, seconds=3)
        idle = _rss(servers["galley"])
        for clients in (16, 64, 1):
            runs: dict[str, Run] = {n: partial(_cpu_s, s, clients) for n, s in servers.items()}
            turns = await take_turns(runs, rounds)
            what = f"gateway: a request of {len(BODY)} bytes, {clients} at a time"
            ours = [1000 * taken for taken in turns["galley"]]
            findings.append(below(f"{what}, CPU", ours, "ms", 0.25 if clients == 16 else None))
            rates = {name: [1 / taken for taken in found] for name, found in turns.items()}
            unit = "requests/s of CPU"
            findings += [faster(what, rates, unit, than=name) for name in list(servers)[1:]]
        findings += await _throughput(servers, rounds)
        findings += await _latency(servers, upstream, rounds)
        findings += await _streams(servers, upstream, rounds)
        findings.append(below("gateway: resident memory after the first load", [idle], "MB", 120))
        under_load = _rss(servers["galley"])
        findings.append(below("gateway: resident memory at the end", [under_load], "MB", 150))
    return findings


async def _throughput(servers: dict[str, Server], rounds: int) -> list[Finding]:
    runs: dict[str, Run] = {n: partial(_rate, s, 16) for n, s in servers.items()}
    turns = await take_turns(runs, rounds)
    targets = {"LiteLLM": 20.0}
    return [
        faster("gateway: 16 at a time", turns, "requests/s", than=name, at_least=targets.get(name))
        for name in list(servers)[1:]
    ]


async def _latency(servers: dict[str, Server], upstream: Server, rounds: int) -> list[Finding]:
    runs: dict[str, Run] = {n: partial(_p50_s, s) for n, s in servers.items()}
    runs["model server"] = partial(_p50_s, upstream)
    turns = await take_turns(runs, rounds)
    return [added("gateway: one at a time, p50", turns, to="model server", at_most_ms=0.6)]


async def _streams(servers: dict[str, Server], upstream: Server, rounds: int) -> list[Finding]:
    runs: dict[str, Run] = {n: partial(_chunks, s) for n, s in servers.items()}
    turns = await take_turns(runs, rounds)
    findings = [
        faster(f"gateway: {STREAMS} streams", turns, "chunks/s", than=name)
        for name in list(servers)[1:]
    ]
    findings.append(above(f"gateway: {STREAMS} streams", turns["galley"], "chunks/s", 65_000))
    firsts: dict[str, Run] = {n: partial(_first_s, s) for n, s in servers.items()}
    firsts["model server"] = partial(_first_s, upstream)
    turns = await take_turns(firsts, max(1, rounds // 2))
    what = f"gateway: first chunk of {STREAMS} paced streams, p50"
    return [*findings, added(what, turns, to="model server", at_most_ms=10)]


async def _cpu_s(server: Server, clients: int, seconds: float = SECONDS) -> float:
    """Seconds of CPU that the gateway takes for a request."""
    before = _cpu(server)
    done = await _load(server, clients, seconds)
    return (_cpu(server) - before) / done


async def _rate(server: Server, clients: int) -> float:
    began = time.perf_counter()
    done = await _load(server, clients, SECONDS)
    return done / (time.perf_counter() - began)


async def _load(server: Server, clients: int, seconds: float) -> int:
    done, end = 0, time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        async with Connection(server.url, server.key) as connection:
            while time.perf_counter() < end:
                await connection.post(PATH, BODY)
                done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done


async def _p50_s(server: Server) -> float:
    took: list[float] = []
    async with Connection(server.url, server.key) as connection:
        for _ in range(500):
            began = time.perf_counter()
            await connection.post(PATH, BODY)
            took.append(time.perf_counter() - began)
    return statistics.median(took)


async def _chunks(server: Server) -> float:
    """Chunks per second of streams that come as fast as they can."""
    began = time.perf_counter()
    each = await asyncio.gather(*(_count(server, _stream_body(0)) for _ in range(STREAMS)))
    return sum(each) / (time.perf_counter() - began)


async def _count(server: Server, body: bytes) -> int:
    found = 0
    async with Connection(server.url, server.key) as connection:
        for _ in range(3):
            stream = b"".join([piece async for piece in connection.pieces(PATH, body)])
            found += len(_EVENT.findall(stream))
    assert found >= 3 * CHUNKS, f"{found} events"
    return found


async def _first_s(server: Server) -> float:
    """The median time to the first chunk of paced streams."""
    return statistics.median(await asyncio.gather(*(_first_of(server) for _ in range(STREAMS))))


async def _first_of(server: Server) -> float:
    async with Connection(server.url, server.key) as connection:
        await connection.open()
        began, first, tail = time.perf_counter(), 0.0, b""
        async for piece in connection.pieces(PATH, _stream_body(10)):
            tail += piece
            if not first and b'"content":" ' in tail:
                first = time.perf_counter() - began
        return first


def _pin(gateways: set[int], others: set[int]) -> None:
    """Give the gateways one core and the rest another, where the system can."""
    if sys.platform == "linux" and (os.cpu_count() or 1) > 1:
        for core, pids in ((0, gateways), (1, others)):
            for pid in pids:
                for task in [*(parent := psutil.Process(pid)).children(recursive=True), parent]:
                    for thread in task.threads():
                        os.sched_setaffinity(thread.id, {core})


def _cpu(server: Server) -> float:
    return sum(t.user + t.system for t in (p.cpu_times() for p in _tree(server)))


def _rss(server: Server) -> float:
    return sum(process.memory_info().rss for process in _tree(server)) / MB


def _tree(server: Server) -> list[psutil.Process]:
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


if __name__ == "__main__":
    main({"gateway": run}, __doc__)
