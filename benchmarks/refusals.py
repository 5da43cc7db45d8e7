"""How quickly requests are refused, and what a crowd of them does to a stream that is under way.

Everything of Galley's is on. It has a core of its own; the load and the model server share another.

python -m benchmarks.refusals
"""

import asyncio
import itertools
import os
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.findings import Finding, Run, added, below, errors, take_turns
from benchmarks.gateway import WHOLE
from benchmarks.gateways import galley_gateway, mock_upstream, pin
from benchmarks.http_load import Seen, load
from benchmarks.main import main
from benchmarks.servers import Server, add_user
from galley.core.security import make_key

CLIENTS = 20
SECONDS = 2.0
CROWD = 200
AT_MOST_MS = 10.0
DISTURBED_MS = 50.0
CHUNKS, PAUSE_MS = 150, 10
CROWD_COMES_S = 0.5


class _Bench:
    """A server, those whom it refuses, and what was wrong with its answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.wrong = 0
        self._keys = {
            "401, no key of ours": ("gk_nonsense", 401),
            "401, an unknown key": (make_key(), 401),
            "403, a scope is missing": (add_user(server, "reader", scopes=["usage"]), 403),
            "429, a limit is used up": (
                add_user(server, "busy", limits={"requests_per_day": 1}),
                429,
            ),
        }

    async def use_up(self) -> None:
        """Have the one request answered that the last of them has."""
        key, _ = self._keys["429, a limit is used up"]
        seen = await load(replace(self.server, key=key), WHOLE, clients=1, seconds=0)
        assert seen.answers == 1

    @property
    def kinds(self) -> list[str]:
        """Why requests are refused."""
        return list(self._keys)

    async def refuse(self, kind: str, clients: int, seconds: float) -> Seen:
        """Send what is refused."""
        key, status = self._keys[kind]
        question = replace(WHOLE, holds=b"", status=status)
        seen = await load(replace(self.server, key=key), question, clients=clients, seconds=seconds)
        self.wrong += seen.errors
        return seen

    async def p99_ms(self, kind: str) -> float:
        """Milliseconds within which 99 of 100 refusals come."""
        took = (await self.refuse(kind, CLIENTS, SECONDS)).took_s
        return 1000 * statistics.quantiles(took, n=100)[98]

    async def pause_s(self, kind: str | None) -> float:
        """The longest pause in a stream while a crowd is refused, or while nobody is."""
        streaming = asyncio.create_task(asyncio.to_thread(_longest_pause_s, self.server))
        await asyncio.sleep(CROWD_COMES_S)
        if kind is not None:
            await self.refuse(kind, CROWD, 0)
        return await streaming


async def run(rounds: int) -> list[Finding]:
    """Refuse for each reason in turn."""
    with (
        tempfile.TemporaryDirectory(prefix="galley-bench-") as folder,
        mock_upstream() as upstream,
        galley_gateway(upstream, Path(folder)) as server,
    ):
        bench = _Bench(server)
        await bench.use_up()
        pin([server], (os.getpid(), upstream.process.pid))
        findings = [
            below(
                f"refusal: {kind}, {CLIENTS} connections, p99",
                [await bench.p99_ms(kind) for _ in range(rounds)],
                "ms",
                AT_MOST_MS,
            )
            for kind in bench.kinds
        ]
        for kind in bench.kinds:
            runs: dict[str, Run] = {
                "galley": lambda kind=kind: bench.pause_s(kind),
                "nobody refused": lambda: bench.pause_s(None),
            }
            turns = await take_turns(runs, rounds)
            what = f"stream: longest pause, {CROWD} at once refused with {kind}"
            findings.append(added(what, turns, to="nobody refused", at_most_ms=DISTURBED_MS))
        return [*findings, *errors("refusal: wrong answers", {"galley": bench.wrong})]


def _longest_pause_s(server: Server) -> float:
    """Read a paced stream on a thread, so that the crowd's own work delays it little."""
    url = urlsplit(server.url)
    steer = b"chunks=%d delay_ms=%d" % (CHUNKS, PAUSE_MS)
    body = b'{"model":"mock","stream":true,"messages":[{"role":"user","content":"%s"}]}' % steer
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.netloc}\r\nconnection: close\r\n"
        f"authorization: Bearer {server.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    times: list[float] = []
    with socket.create_connection((url.hostname or "", url.port or 80)) as connection:
        connection.sendall(head.encode() + body)
        last = b""
        while piece := connection.recv(65_536):
            times.append(time.perf_counter())
            last = piece
    assert b"[DONE]" in last, last
    return max(after - before for before, after in itertools.pairwise(times))


if __name__ == "__main__":
    main({"refusals": run}, __doc__)
