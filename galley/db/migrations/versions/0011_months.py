"""Requests by month, where the database is PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# After the rows are there: to build an index is quicker than to add to it.
INDEXES = (
    "ALTER TABLE api_requests ADD CONSTRAINT pk_api_requests PRIMARY KEY (request_id)",
    "CREATE INDEX ix_api_requests_user_id_request_id ON api_requests (user_id, request_id)",
    "CREATE INDEX ix_api_requests_open ON api_requests (instance_id) WHERE state = 'open'",
    "CREATE INDEX ix_api_requests_drawn ON api_requests (route, request_id) WHERE arm IS NOT NULL",
)


def upgrade() -> None:
    """Give each month that has requests a partition; the server makes those that come."""
    if op.get_bind().dialect.name != "postgresql":
        return
    parts = ["CREATE TABLE api_requests_rest PARTITION OF api_requests DEFAULT"]
    parts += [
        f"CREATE TABLE api_requests_{begin:%Y_%m} PARTITION OF api_requests"
        f" FOR VALUES FROM ('{_first_id(begin)}') TO ('{_first_id(end)}')"
        for begin, end in _months(op.get_bind())
    ]
    _make_anew(" PARTITION BY RANGE (request_id)", parts)


def downgrade() -> None:
    """Put all requests in one table."""
    if op.get_bind().dialect.name == "postgresql":
        _make_anew("", [])


def _make_anew(kind: str, parts: list[str]) -> None:
    for statement in (
        "ALTER TABLE api_requests RENAME TO api_requests_before",
        f"CREATE TABLE api_requests (LIKE api_requests_before INCLUDING DEFAULTS){kind}",
        *parts,
        "INSERT INTO api_requests SELECT * FROM api_requests_before",
        "DROP TABLE api_requests_before",
        *INDEXES,
    ):
        op.execute(statement)


def _months(connection: sa.Connection) -> Iterator[tuple[datetime, datetime]]:
    """Yield the months that have requests, up to this one; one look-up finds the next."""
    query = sa.text(
        "SELECT request_id::text FROM api_requests WHERE request_id >= CAST(:after AS uuid)"
        " AND request_id < CAST(:now AS uuid) ORDER BY request_id LIMIT 1"
    )
    now, after = _first_id(datetime.now(UTC)), _first_id(datetime.fromtimestamp(0, UTC))
    while found := connection.scalar(query, {"after": after, "now": now}):
        came = datetime.fromtimestamp(int(found[:8] + found[9:13], 16) / 1000, UTC)
        begin = came.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = (begin + timedelta(days=31)).replace(day=1)
        yield begin, end
        after = _first_id(end)


def _first_id(at: datetime) -> str:
    moment = f"{int(at.timestamp() * 1000):012x}"
    return f"{moment[:8]}-{moment[8:]}-0000-0000-000000000000"
