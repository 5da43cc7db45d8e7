"""What a kind of job is: the function that does it, what it is told, and who may ask for it."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from galley.core.caller import Caller
from galley.schemas.base import Request


class JobStoppedError(Exception):
    """The job was cancelled, or somebody else has it now: what is left to be done is not ours."""


class Report(Protocol):
    """Stores how far a job got."""

    async def __call__(self, done: int, total: int | None, message: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class JobRun:
    """One attempt at a job: what its function gets.

    Args:
        id: the job's, the same in every attempt.
        caller: its owner, by the key they came with, as they are now.
        params: as the kind's `params` has them, as plain JSON.
        attempt: from 1.
    """

    id: str
    caller: Caller
    params: Mapping[str, Any]
    attempt: int
    report: Report

    async def progress(self, done: int, total: int | None, message: str | None = None) -> None:
        """Say how far it got: stored (a few times a second at most), and shown to who watches.

        Raises:
            JobStoppedError: it was cancelled, or somebody else has it now.
        """
        await self.report(done, total, message)

    def request_id(self, part: str) -> str:
        """Name the request that is booked for a part of the work: the same in every attempt."""
        return derived_id(int(self.id.replace("-", "")[:12], 16), self.id, part)


JobFunction = Callable[[JobRun], Awaitable[dict[str, Any]]]
"""Does the work and returns the job's result, as plain JSON.

It may safely run twice, from the beginning: a server may die after the work and before its row
says so. It is stopped by `asyncio.CancelledError` wherever it waits: when the job is cancelled,
and when the server stops. A `GalleyError` under 500 fails the job at once, with its message;
`RateLimitError` puts it off until `retry_after`; any other error is tried again, three attempts
in all.
"""

Check = Callable[[Caller, Any], Awaitable[None]]
"""Refuses, before a job is made, what cannot work: files that are not there, and the like."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job.

    Args:
        run: does it.
        params: what it is told; unknown fields are refused.
        scopes: what its owner needs besides `jobs`, when it is made and whenever it begins.
        check: called with the caller and the validated params, before the job is made.
    """

    run: JobFunction
    params: type[Request]
    scopes: tuple[str, ...] = ()
    check: Check | None = None


def derived_id(at: int, *of: str) -> str:
    """Make an id of the moment `at`, in milliseconds, that is the same for the same texts.

    Source: RFC 9562, section 5.7: what is random in a UUIDv7 is a hash here.
    """
    digest = hashlib.sha256("\0".join(of).encode()).hexdigest()
    moment = f"{at:012x}"
    variant = "89ab"[int(digest[3], 16) % 4]
    return f"{moment[:8]}-{moment[8:]}-7{digest[:3]}-{variant}{digest[4:7]}-{digest[7:19]}"
