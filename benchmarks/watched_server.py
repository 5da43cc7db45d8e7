"""Galley as it is, with a clock in its event loop: `GET /lag` says how long it stood still."""

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.servers import CLASSIFY
from galley.cli.server import TURN_S
from galley.core.catalogue import EMBEDDED_MODELS
from galley.core.heap import freeze_heap
from galley.core.logging import configure_logging
from galley.core.settings import Settings
from galley.main import create_app
from galley.routers.protocol import make_protocol

_TICK_S = 0.002


class Watched:
    """An app, and the longest time between two ticks of its loop since it was last asked.

    What other programs took the processor away for is not counted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._worst = 0.0
        self._clock: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._clock = asyncio.create_task(self._tick())
        if scope["type"] == "http" and scope["path"] == "/lag":
            body = json.dumps({"worst_ms": 1000 * self._worst}).encode()
            self._worst = 0.0
            await _answer(send, body)
        else:
            await self._app(scope, receive, send)

    async def _tick(self) -> None:
        told = _open_schedstat()
        before, held = time.perf_counter(), _waited_s(told)
        while True:
            await asyncio.sleep(_TICK_S)
            now, held_now = time.perf_counter(), _waited_s(told)
            self._worst = max(self._worst, now - before - _TICK_S - (held_now - held))
            before, held = now, held_now


def _open_schedstat() -> int | None:
    """Open what is told of this thread, once: each system call gives the interpreter away.

    Source: Linux kernel documentation, Scheduler Statistics, /proc/<pid>/schedstat.
    """
    try:
        return os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
    except OSError:
        return None


def _waited_s(told: int | None) -> float:
    """How long the thread has waited for a processor that others had; 0 where nobody says."""
    return 0.0 if told is None else int(os.pread(told, 100, 0).split()[1]) / 1e9


async def _answer(send: Send, body: bytes) -> None:
    start: MutableMapping[str, Any] = {"type": "http.response.start", "status": 200}
    length = str(len(body)).encode()
    await send(start | {"headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


def _serve() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--key", required=True)
    given = parser.parse_args()
    settings = Settings(
        data_dir=given.data_dir,
        models_dir=given.models_dir,
        bootstrap_key=given.key,
        embedded_models=False,
        models={CLASSIFY: EMBEDDED_MODELS[CLASSIFY]},
    )
    configure_logging(settings)
    config = uvicorn.Config(
        Watched(create_app(settings)),
        port=given.port,
        http=make_protocol(settings),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    freeze_heap()
    sys.setswitchinterval(TURN_S)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    _serve()
