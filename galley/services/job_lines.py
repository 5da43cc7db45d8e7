"""The log of a job: its last lines, numbered."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

MOST_LINES = 50
LONGEST = 500  # characters

Event = Literal["queued", "started", "progress", "retried", "interrupted", "ended"]


def line(log: Sequence[dict[str, Any]], at: datetime, event: Event, message: str) -> dict[str, Any]:
    """Make the line that comes after those of `log`."""
    number = log[-1]["number"] + 1 if log else 1
    return {"number": number, "at": at.isoformat(), "event": event, "message": message[:LONGEST]}


def appended(
    log: Sequence[dict[str, Any]], at: datetime, event: Event, message: str
) -> list[dict[str, Any]]:
    """Return `log` with one more line, less the oldest ones where there are too many."""
    return [*log, line(log, at, event, message)][-MOST_LINES:]
