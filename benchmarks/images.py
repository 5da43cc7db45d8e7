"""What is left of decoding and ONNX Runtime behind Galley: pictures per second from base64 JPEG.

python -m benchmarks.images
"""

import base64
import time
from contextlib import ExitStack
from functools import partial

import psutil

from benchmarks.connection import Connection
from benchmarks.findings import Finding, Run, below, faster, take_turns
from benchmarks.load import bodies, photograph, pictures, rate, raw_rate
from benchmarks.main import main
from benchmarks.raw import RAW, RawClassifier, graphs
from benchmarks.servers import CLASSIFY, Server, galley, has_peers, peer

CLIENTS = 16
BATCH = 32
SECONDS = 2.0
MOST_MS = 120.0
LITSERVE = "LitServe, same graph"
TUTORIAL = "tutorial, ResNet-18"


async def run(rounds: int) -> list[Finding]:
    """Measure Galley, the raw engine and, where they are installed, the peers, in turns."""
    with ExitStack() as stack:
        ours = stack.enter_context(galley())
        servers = {"galley": ours}
        if has_peers():
            litserve = peer("litserve_server.py", "images", "--model", str(graphs()[CLASSIFY]))
            servers[LITSERVE] = stack.enter_context(litserve)
            servers[TUTORIAL] = stack.enter_context(peer("tutorial.py"))
        return [
            *await _single(servers, rounds),
            *await _batches(ours, rounds),
            *await _large(ours, rounds),
        ]


async def _single(servers: dict[str, Server], rounds: int) -> list[Finding]:
    """Version 1: one picture a request, from many clients."""
    sent = bodies([{"image": shot} for shot in pictures()])
    runs: dict[str, Run] = {
        name: partial(rate, server, "/v1/classify", sent, clients=CLIENTS, seconds=SECONDS, units=1)
        for name, server in servers.items()
    }
    turns = await take_turns(runs | _raw(CLIENTS), rounds)
    targets = {"raw, all cores": 0.9, "raw, all cores but one": None, LITSERVE: 1.0, TUTORIAL: 3.0}
    return [
        faster(f"images: {CLIENTS} clients", turns, "images/s", than=name, at_least=target)
        for name, target in targets.items()
        if name in turns
    ]


async def _batches(server: Server, rounds: int) -> list[Finding]:
    """Version 2: many pictures a request, from one client and from two."""
    sent = bodies([{"images": [{"image": shot} for shot in _shots(BATCH)]}])
    runs: dict[str, Run] = {
        name: partial(
            rate, server, "/v2/classify", sent, clients=clients, seconds=SECONDS, units=BATCH
        )
        for name, clients in {"galley": 2, "a single client": 1}.items()
    }
    turns = await take_turns(runs | _raw(BATCH), rounds)
    targets = {"raw, all cores": 0.95, "raw, all cores but one": None, "a single client": None}
    return [
        faster(f"images: {BATCH} a request", turns, "images/s", than=name, at_least=target)
        for name, target in targets.items()
    ]


async def _large(server: Server, rounds: int) -> list[Finding]:
    """A photograph as cameras make them, sent alone: what it costs, and how long it takes."""
    (sent,) = bodies([{"image": base64.b64encode(photograph()).decode()}])
    process = psutil.Process(server.process.pid)
    spent: list[float] = []
    took: list[float] = []
    async with Connection(server.url, server.key) as connection:
        for turn in range(2 * rounds + 1):
            busy, begin = _busy_s(process), time.perf_counter()
            await connection.post("/v1/classify", sent)
            if turn:
                took.append(1000 * (time.perf_counter() - begin))
                spent.append(1000 * (_busy_s(process) - busy))
    return [
        below("images: 24 megapixels, processor time", spent, "ms", MOST_MS),
        below("images: 24 megapixels, until the answer", took, "ms"),
    ]


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _raw(count: int) -> dict[str, Run]:
    return {
        name: partial(
            raw_rate,
            partial(RawClassifier(threads).classify, _shots(count)),
            seconds=SECONDS,
            units=count,
        )
        for name, threads in RAW.items()
    }


def _shots(count: int) -> list[str]:
    shots = pictures()
    return [shots[number % len(shots)] for number in range(count)]


if __name__ == "__main__":
    main({"images": run}, __doc__)
