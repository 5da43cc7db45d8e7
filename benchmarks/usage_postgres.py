"""Ten million requests, made up by PostgreSQL itself within a minute or two."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text

from galley.db.engine import make_engine
from galley.db.months import make_months
from galley.db.record import AMOUNTS
from galley.db.session import Database
from galley.db.tables import new_id

DAYS, PER_DAY = 300, 33_334
AT_ONCE = 10  # days

_REQUESTS = """
INSERT INTO api_requests (
  request_id, instance_id, state, user_id, key_id, endpoint, model, served_model, stream, status,
  prompt_tokens, cached_tokens, completion_tokens, units, cost, first_token_ms, response_time_ms,
  created_at
)
SELECT
  (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || substr(md5(n::text), 1, 15))::uuid,
  CAST(:instance AS uuid), CASE WHEN n % 50 = 0 THEN 'refused' ELSE 'completed' END,
  (CAST(:users AS uuid[]))[1 + u], (CAST(:keys AS uuid[]))[1 + u],
  (CAST(:endpoints AS text[]))[1 + m], (CAST(:models AS text[]))[1 + m],
  (CAST(:models AS text[]))[1 + m], false, 200,
  n % 2000, 0, n % 500, n % 2, n % 1000, random() * 250, random() * 1000, at
FROM (
  SELECT n, at, (:shift * (extract(hour FROM at)::int / 8)) + abs(hashint8(n) % :shift) AS u,
    abs(hashint8(n + 1000000000) % :n_models) AS m
  FROM (
    SELECT n, CAST(:start AS timestamptz) + make_interval(secs => n * 86400.0 / :per_day) AS at
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
  ) AS timed
) AS made
"""

_COLUMNS = ", ".join(AMOUNTS)
_HOURS = f"""
INSERT INTO usage_hourly (user_id, hour, key_id, endpoint, served_model, {_COLUMNS})
SELECT
  user_id, date_trunc('hour', created_at, 'UTC'), key_id, endpoint, served_model,
  count(*), count(*) FILTER (WHERE state = 'completed'),
  {", ".join(f"sum({name})" for name in AMOUNTS[2:])}
FROM api_requests
WHERE created_at >= CAST(:begin AS timestamptz) AND created_at < CAST(:end AS timestamptz)
GROUP BY 1, 2, 3, 4, 5
"""  # noqa: S608 - our own columns
_DAYS = f"""
INSERT INTO usage_daily (user_id, day, endpoint, served_model, {_COLUMNS})
SELECT
  user_id, (hour AT TIME ZONE 'UTC')::date, endpoint, served_model,
  {", ".join(f"sum({name})" for name in AMOUNTS)}
FROM usage_hourly GROUP BY 1, 2, 3, 4
"""  # noqa: S608 - our own columns
_BYTES = """
SELECT
  (SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree('api_requests'))
    AS requests,
  pg_total_relation_size('usage_hourly') + pg_total_relation_size('usage_daily') AS sums
"""


class Bytes(NamedTuple):
    """What a request takes on disk, with its indexes, and what the sums take for each."""

    row: float
    sums: float


async def fill_postgresql(
    database: Database, user_ids: Sequence[str], models: Mapping[str, str], *, until: datetime
) -> Bytes:
    """Write `PER_DAY` requests for each of the `DAYS` before `until`, and their sums.

    Users come in shifts of eight hours.

    Args:
        models: the endpoint of each model by its name.
    """
    engine = make_engine(database.engine.url, migrating=True)
    start = until - timedelta(days=DAYS)
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        days = (start.date() + timedelta(days=day) for day in range(DAYS + 1))
        await make_months(connection, {day.replace(day=1) for day in days})
        given = {
            "instance": new_id(), "users": user_ids, "keys": [new_id() for _ in user_ids],
            "models": list(models), "endpoints": list(models.values()),
            "shift": len(user_ids) // 3, "n_models": len(models),
            "start": start, "per_day": PER_DAY,
        }  # fmt: skip
        for day in range(0, DAYS, AT_ONCE):
            part = {"first": day * PER_DAY, "last": (day + AT_ONCE) * PER_DAY - 1}
            await connection.execute(text(_REQUESTS), given | part)
            begin = start + timedelta(days=day)
            span = {"begin": begin, "end": begin + timedelta(days=AT_ONCE)}
            await connection.execute(text(_HOURS), span)
        await connection.execute(text(_DAYS))
    idle = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with idle.connect() as connection:  # as the server does by itself, in time
        await connection.execute(text("VACUUM ANALYZE"))
        found = (await connection.execute(text(_BYTES))).one()
    await engine.dispose()
    return Bytes(found.requests / (DAYS * PER_DAY), found.sums / (DAYS * PER_DAY))
