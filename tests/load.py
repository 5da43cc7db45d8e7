"""Clients that never stop asking."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx2

Ask = tuple[str, dict[str, Any] | None]
"""A path, and what is posted there; None asks for what is there."""

LOOK_S = 0.1  # between two looks of a client that asks for nothing else, or finds nobody


class Failure(NamedTuple):
    """A request that did not succeed; the status is 0 where there was no answer."""

    at: float
    what: str
    status: int
    told: str
    retry_after: str | None

    @property
    def is_put_off(self) -> bool:
        """A refusal that says when to come again, or a stream whose end says that it is free."""
        if self.status == 503:
            return self.retry_after is not None
        return self.status == 200 and '"code":"ledger_unavailable"' in self.told


class Load:
    """Clients that ask again and again, and keep what came of it; only what is billed is counted.

    Args:
        client: makes one of them.
        each: clients for each of `asks`.
        pause_s: between an answer and the next request of the same client.
    """

    def __init__(
        self,
        client: Callable[[], httpx2.Client],
        asks: Sequence[Ask],
        *,
        each: int = 1,
        pause_s: float = 0.0,
    ) -> None:
        self.whole: list[str] = []
        """The ids of all billed answers that were seen whole."""
        self.failed: list[Failure] = []
        self.slowest_s = 0.0
        self.count = 0
        self._client = client
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=ask) for ask in asks for _ in range(each)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, count: int) -> None:
        """Wait until so many requests have been answered."""
        end = time.monotonic() + 300
        while self.count < count:
            assert time.monotonic() < end, (self.count, self.failed)
            time.sleep(0.05)

    def _ask(self, path: str, body: dict[str, Any] | None) -> None:
        what = f"{path} {'stream' if body and body.get('stream') else ''}"
        with self._client() as client:
            while not self._stop.is_set():
                began, pause_s = time.monotonic(), self._pause_s
                try:
                    answer = client.get(path) if body is None else client.post(path, json=body)
                except httpx2.TransportError as error:
                    self._fail(what, 0, repr(error))
                    pause_s = max(LOOK_S, pause_s)
                else:
                    self._look_at(what, body, answer)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.count += body is not None
                self._stop.wait(pause_s if body is not None else LOOK_S)

    def _fail(self, what: str, status: int, told: str, retry_after: str | None = None) -> None:
        self.failed.append(Failure(time.monotonic(), what, status, told[-300:], retry_after))

    def _look_at(self, what: str, body: dict[str, Any] | None, answer: httpx2.Response) -> None:
        streamed = bool(body and body.get("stream"))
        if answer.status_code != 200:
            self._fail(what, answer.status_code, answer.text, answer.headers.get("retry-after"))
        elif streamed and not answer.text.endswith("data: [DONE]\n\n"):
            self._fail(what, 200, answer.text)
        elif body is not None:
            self.whole.append(answer.headers["request-id"])
