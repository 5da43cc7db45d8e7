"""Tells those who watch a job, in this process, that something has happened to it."""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager


class JobBell:
    """Rung by who works on a job; heard by who watches it."""

    def __init__(self) -> None:
        self._listening: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def ring(self, job_id: str) -> None:
        """Wake all who watch the job."""
        for event in self._listening.get(job_id, ()):
            event.set()

    def close(self) -> None:
        """The server stops: wake all who watch anything, so that they end."""
        self.closed = True
        for job_id in self._listening:
            self.ring(job_id)

    @contextmanager
    def listen(self, job_id: str) -> Generator[asyncio.Event]:
        """Give an event that is set whenever something happens, for a block."""
        event = asyncio.Event()
        self._listening[job_id].add(event)
        try:
            yield event
        finally:
            self._listening[job_id].discard(event)
            if not self._listening[job_id]:
                del self._listening[job_id]
