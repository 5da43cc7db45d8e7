"""What a gateway costs between a client and a model server that answers at once.

Everything of Galley's is on: key, limits, budget, price, metrics, log, and a row in the ledger that
is on disk before the answer ends. The peers have on what they have. Gateways share one core, where
all but the one that is measured are stopped; the model server and the load share another. CPU per
request is the figure to trust.

python -m benchmarks.gateway
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.findings import (
    Finding,
    above,
    added,
    below,
    errors,
    faster,
    take_turns,
)
from benchmarks.gateways import cpu_s, gateways, mock_upstream, pin, rss_mb, stopped
from benchmarks.http_load import Question, Seen, load
from benchmarks.main import main
from benchmarks.mock_upstream import TEXT
from benchmarks.servers import Server

SECONDS = 2.0
STREAMS = 32
CHUNKS = 200
PAUSE_MS = 10
_WHOLE = (
    b'{"model":"mock","temperature":0.7,"max_tokens":100,"messages":[{"role":"system","content":'
    b'"You are a helpful assistant."},{"role":"user","content":"%s"}]}'
)
_FILLER = b"Which of these would most people agree with, and what do they say of it? "
WHOLE = Question(_WHOLE % (_FILLER * 5), ends=b"}", holds=TEXT.encode())
_TIMES_FASTER = {"LiteLLM": 20.0, "Portkey": 2.5}


def stream(pause_ms: int, chunks: int = CHUNKS) -> Question:
    """Ask for a stream whose pieces come so far apart."""
    steer = b"chunks=%d delay_ms=%d" % (chunks, pause_ms)
    body = (_WHOLE % steer)[:-1] + b',"stream":true}'
    return Question(body, ends=b"data: [DONE]", events=chunks)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn came to, and what CPU it took of the gateway, and of load and model server."""

    seen: Seen
    cpu_s: float
    load_s: float

    @property
    def rate(self) -> float:
        return self.seen.answers / self.seen.seconds

    @property
    def requests_per_cpu_s(self) -> float:
        return self.seen.answers / self.cpu_s

    @property
    def chunks_per_s(self) -> float:
        return self.seen.events / self.seen.seconds

    @property
    def chunks_per_cpu_s(self) -> float:
        return self.seen.events / self.cpu_s

    @property
    def gateway_percent(self) -> float:
        return 100 * self.cpu_s / self.seen.seconds

    @property
    def load_percent(self) -> float:
        return 100 * self.load_s / self.seen.seconds


_Turns = Mapping[str, Sequence[_Turn]]


class _Bench:
    """The gateways, of which one at a time runs, and what was wrong with their answers."""

    def __init__(self, servers: Mapping[str, Server], upstream: Server) -> None:
        self.gateways = servers
        self.upstream = upstream
        self.errors: Counter[str] = Counter()

    async def turn(self, name: str, question: Question, clients: int, seconds: float) -> _Turn:
        """Load one of them, or the model server."""
        server = self.gateways.get(name, self.upstream)
        with stopped(other for other in self.gateways.values() if other is not server):
            before, load_before = cpu_s(server), self._load_s()
            seen = await load(server, question, clients=clients, seconds=seconds)
            turn = _Turn(seen, cpu_s(server) - before, self._load_s() - load_before)
        self.errors[name] += seen.errors
        return turn

    async def turns(
        self, names: Iterable[str], question: Question, clients: int, rounds: int
    ) -> _Turns:
        """Load each in turn."""
        runs = {name: partial(self.turn, name, question, clients, SECONDS) for name in names}
        return await take_turns(runs, rounds)

    def _load_s(self) -> float:
        times = os.times()
        return times.user + times.system + cpu_s(self.upstream)


async def run(rounds: int) -> list[Finding]:
    """Send all gateways the same requests in turns."""
    with mock_upstream() as upstream, gateways(upstream) as servers:
        pin(servers.values(), (os.getpid(), upstream.process.pid))
        bench = _Bench(servers, upstream)
        streaming = [name for name in servers if await _streams(bench, name)]
        idle = {name: [rss_mb(server)] for name, server in servers.items()}
        for name in servers:
            await bench.turn(name, WHOLE, 16, seconds=3)
        findings = await _whole_answers(bench, rounds)
        findings += await _fast_streams(bench, streaming, rounds)
        findings += await _first_chunks(bench, max(1, rounds // 2))
        in_use = {name: [rss_mb(server)] for name, server in servers.items()}
        findings += _memory("gateway: resident memory, idle", idle, 120)
        findings += _memory("gateway: resident memory after the load", in_use, 150)
        return [*findings, *errors("gateway: errors", bench.errors)]


async def _streams(bench: _Bench, name: str) -> bool:
    """Ask for one answer, and one stream; a peer that cannot stream is not asked again."""
    await bench.turn(name, WHOLE, 1, seconds=0)
    turn = await bench.turn(name, stream(0), 1, seconds=0)
    if not turn.seen.errors or name == "galley":
        return True
    bench.errors[name] -= turn.seen.errors
    print(f"{name} does not stream; its whole answers alone are compared.", flush=True)
    return False


async def _whole_answers(bench: _Bench, rounds: int) -> list[Finding]:
    findings: list[Finding] = []
    peers = list(bench.gateways)[1:]
    for clients in (16, 64, 1):
        names = [*bench.gateways, *(["model server"] if clients == 1 else [])]
        turns = await bench.turns(names, WHOLE, clients, rounds)
        what = f"gateway: a request of {len(WHOLE.body)} bytes, {clients} at a time"
        each_ms = [1000 / turn.requests_per_cpu_s for turn in turns["galley"]]
        findings.append(below(f"{what}, CPU", each_ms, "ms", 0.25 if clients == 16 else None))
        per_cpu = _of(turns, lambda turn: turn.requests_per_cpu_s)
        findings += [faster(what, per_cpu, "requests/s of CPU", than=name) for name in peers]
        if clients == 16:
            rates = _of(turns, lambda turn: turn.rate)
            findings += [
                faster(what, rates, "requests/s", than=name, at_least=_TIMES_FASTER.get(name))
                for name in peers
            ]
            findings += _shares(what, turns)
        if clients == 1:
            p50 = _of(turns, lambda turn: statistics.median(turn.seen.took_s))
            findings.append(added(f"{what}, p50", p50, to="model server", at_most_ms=0.6))
    return findings


async def _fast_streams(bench: _Bench, names: Sequence[str], rounds: int) -> list[Finding]:
    """Streams that come as fast as they can."""
    turns = await bench.turns(names, stream(0), STREAMS, rounds)
    what = f"gateway: {STREAMS} streams"
    rates = _of(turns, lambda turn: turn.chunks_per_s)
    per_cpu = _of(turns, lambda turn: turn.chunks_per_cpu_s)
    return [
        above(what, rates["galley"], "chunks/s", 65_000),
        *(faster(what, rates, "chunks/s", than=name) for name in names[1:]),
        *(faster(what, per_cpu, "chunks/s of CPU", than=name) for name in names[1:]),
        *_shares(what, turns),
    ]


async def _first_chunks(bench: _Bench, rounds: int) -> list[Finding]:
    names = ("galley", "model server")
    turns = await bench.turns(names, stream(PAUSE_MS), STREAMS, rounds)
    firsts = _of(turns, lambda turn: statistics.median(turn.seen.first_s))
    what = f"gateway: first chunk of {STREAMS} paced streams, p50"
    return [added(what, firsts, to="model server", at_most_ms=10)]


def _shares(what: str, turns: _Turns) -> list[Finding]:
    """Say how busy both cores were: where the load's has no room left, it is what limits."""
    found = turns["galley"]
    return [
        below(f"{what}, Galley's share of its core", [turn.gateway_percent for turn in found], "%"),
        below(f"{what}, load's share of its core", [turn.load_percent for turn in found], "%", 95),
    ]


def _memory(what: str, found: Mapping[str, list[float]], limit: float) -> list[Finding]:
    peers = [faster(what, found, "MB", than=name) for name in list(found)[1:]]
    return [below(what, found["galley"], "MB", limit), *peers]


def _of(turns: _Turns, figure: Callable[[_Turn], float]) -> dict[str, list[float]]:
    return {name: [figure(turn) for turn in found] for name, found in turns.items()}


if __name__ == "__main__":
    main({"gateway": run}, __doc__)
