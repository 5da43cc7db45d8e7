"""What comes in by the side door (`routers/side_door.py`): requests that are not sent over HTTP."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from galley.core.caller import Caller
from galley.services.charge import Arrival


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: by whom, of which route, with which body.

    Args:
        arrival: its id is the same when it comes again, so that it is booked once.
    """

    caller: Caller
    path: str
    body: bytes
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client of the route would have got, and the tokens that were booked."""

    status: int
    body: bytes
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


SideDoor = Callable[[Asked], Awaitable[Answered]]
"""Answers a request by the road that those over HTTP take, while nobody in front waits.

Raises:
    RateLimitError, OverloadedError: it is to come again later; nothing was booked.
"""
