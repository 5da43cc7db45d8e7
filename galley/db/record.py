"""What the ledger writes of a request, and what it adds to the hourly sums."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any

from galley.db.tables import State, utc_now

Row = tuple[Any, ...]
"""A record as it was at one moment: its values in the order of `COLUMNS`, then its receipt."""

Done = Callable[[Exception | None], None]


class RefusedRowError(Exception):
    """The database is well but does not take one of the rows."""


@dataclass(slots=True)
class Record:
    """One row of `api_requests`, filled in while the request runs.

    Args:
        request_id: UUIDv7; the server's own. `client_request_id` is the caller's.
        instance_id: which run of which server.
        endpoint: such as `chat/completions`; usage is summed up by it.
        model: as asked, and so in the caller's own words.
        served_model: the one that answered.
        status: HTTP status; 499 for a caller that hung up.
        units: images or texts, where these are what is counted.
        cost: in micro-dollars, by the price `price_id`.
        ignored_fields: inert fields that the request carried, joined by commas.
        route: whose name, or wildcard, `model` was.
        arm: which target its user is drawn, of a route that has several.
        attempts: how often a model was asked for it.
        cache: `exact` or `semantic`, where the answer came from there.
        receipt: how it came to all that, as JSON; kept in a table of its own, for a shorter time.
    """

    request_id: str
    instance_id: str
    user_id: str
    key_id: str
    endpoint: str
    client_request_id: str | None = None
    state: State = "open"
    model: str | None = None
    served_model: str | None = None
    stream: bool = False
    status: int | None = None
    error_code: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    units: int = 0
    cost: int = 0
    price_id: str | None = None
    first_token_ms: float | None = None
    response_time_ms: float | None = None
    ignored_fields: str | None = None
    route: str | None = None
    arm: str | None = None
    attempts: int = 0
    cache: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    receipt: bytes | None = None

    def row(self) -> Row:
        """Take the values as they are now."""
        if self.model is not None and not self.model.isprintable():
            # PostgreSQL refuses NUL, both databases refuse lone surrogates.
            self.model = "".join(c if c.isprintable() else "\ufffd" for c in self.model)
        return _values(self)


COLUMNS = tuple(f.name for f in fields(Record) if f.name != "receipt")
RECEIPT_COLUMNS = ("request_id", "detail")
REQUEST_ID = COLUMNS.index("request_id")
STATE = COLUMNS.index("state")

SUM_KEY = ("user_id", "hour", "key_id", "endpoint", "served_model")
DAY_KEY = ("user_id", "day", "endpoint", "served_model")
_COUNTED = ("prompt_tokens", "completion_tokens", "units", "cost", "response_time_ms")
AMOUNTS = ("requests", "successes", *_COUNTED)
SUM_COLUMNS = (*SUM_KEY, *AMOUNTS)
DAY_COLUMNS = (*DAY_KEY, *AMOUNTS)

# Known when a request opens: writing these anew at its end would only move index entries.
_FIXED = frozenset(
    (
        "request_id",
        "client_request_id",
        "instance_id",
        "created_at",
        "user_id",
        "key_id",
        "endpoint",
    )
)

_values = attrgetter(*COLUMNS, "receipt")
_key = itemgetter(
    *map(COLUMNS.index, ("user_id", "created_at", "key_id", "endpoint", "served_model"))
)
_counts = itemgetter(*map(COLUMNS.index, _COUNTED))


def hourly_sums(rows: Iterable[Row]) -> list[Row]:
    """Add settled rows up by user, hour, key, endpoint and serving model.

    Returns:
        Rows of `SUM_COLUMNS`, sorted by key, so that servers that lock the same rows of
        `usage_hourly` do so in one order and never wait for each other in a circle.
    """
    sums: dict[Row, list[float]] = {}
    for row in rows:
        user_id, created_at, key_id, endpoint, served_model = _key(row)
        hour = created_at.replace(minute=0, second=0, microsecond=0)
        key = (user_id, hour, key_id, endpoint, served_model or "")
        total = sums.setdefault(key, [0, 0, 0, 0, 0, 0, 0.0])
        adds = (1, row[STATE] == "completed", *_counts(row))
        for n, add in enumerate(adds):
            total[n] += add or 0
    return [(*key, *sums[key]) for key in sorted(sums)]


def daily_sums(hourly: Iterable[Row]) -> list[Row]:
    """Add rows of `SUM_COLUMNS` up by day, whatever the key, as sorted rows of `DAY_COLUMNS`."""
    sums: dict[Row, list[float]] = {}
    for user_id, hour, _, endpoint, served_model, *amounts in hourly:
        key = (user_id, hour.date(), endpoint, served_model)
        known = sums.get(key)
        sums[key] = [a + b for a, b in zip(known, amounts, strict=True)] if known else amounts
    return [(*key, *sums[key]) for key in sorted(sums)]


def upsert_requests(source: str) -> str:
    """Write the statement that records requests; a settled one is left as it is.

    `interrupted` is not settled: a server that was taken for dead may still have the last word.
    """
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in _FIXED)
    return (
        f"INSERT INTO api_requests ({', '.join(COLUMNS)}) {source} "
        f"ON CONFLICT (request_id) DO UPDATE SET {changes} "
        "WHERE api_requests.state IN ('open', 'interrupted')"
    )


def receipts(rows: Iterable[Row]) -> list[Row]:
    """Take the receipts out of settled rows, as rows of `RECEIPT_COLUMNS`."""
    return [(row[REQUEST_ID], row[-1]) for row in rows if row[-1] is not None]


def add_receipts(source: str) -> str:
    """Write the statement that keeps receipts; one that is there already stays as it is."""
    return (
        f"INSERT INTO receipts ({', '.join(RECEIPT_COLUMNS)}) {source} "
        "ON CONFLICT (request_id) DO NOTHING"
    )


def add_to_hours(source: str) -> str:
    """Write the statement that adds to the hourly sums."""
    return _add("usage_hourly", SUM_KEY, source)


def add_to_days(source: str) -> str:
    """Write the statement that adds to the daily sums."""
    return _add("usage_daily", DAY_KEY, source)


def _add(table: str, key: Sequence[str], source: str) -> str:
    changes = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in AMOUNTS)
    return (
        f"INSERT INTO {table} ({', '.join((*key, *AMOUNTS))}) {source} "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    )
