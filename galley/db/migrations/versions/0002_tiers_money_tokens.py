"""Tiers, limits, prices and costs, refresh tokens, and the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")
MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("CURRENT_TIMESTAMP")
SCOPES = ["chat", "embeddings", "classify", "usage", "keys"]
FREE = {
    "requests_per_minute": 60,
    "requests_per_day": 5_000,
    "tokens_per_minute": 60_000,
    "tokens_per_day": 1_000_000,
    "images_per_minute": 5,
    "texts_per_minute": 2_000,
    "concurrency": 4,
}
PREMIUM = {
    "requests_per_minute": 600,
    "requests_per_day": 100_000,
    "tokens_per_minute": 1_000_000,
    "tokens_per_day": 50_000_000,
    "images_per_minute": 300,
    "texts_per_minute": 20_000,
    "concurrency": 32,
}


def upgrade() -> None:
    """Make the new tables, seed the tiers, and widen the old ones."""
    _create_tiers()
    _widen_users_and_keys()
    _create_tokens_prices_audit()
    op.add_column(
        "api_requests", sa.Column("cost", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column("api_requests", sa.Column("price_id", ID, nullable=True))
    _rebuild_sums()
    _create_days_retention_instances()


def downgrade() -> None:
    """Take it all back; what the keys and costs of requests were is lost."""
    op.drop_table("usage_daily")
    op.drop_table("retention")
    op.drop_table("instances")
    op.execute("CREATE TABLE kept AS SELECT * FROM usage_hourly")
    op.drop_table("usage_hourly")
    _create_sums("usage_hourly", [])
    op.execute(
        "INSERT INTO usage_hourly SELECT user_id, hour, endpoint, served_model, sum(requests),"
        " sum(successes), sum(prompt_tokens), sum(completion_tokens), sum(units),"
        " sum(response_time_ms) FROM kept GROUP BY user_id, hour, endpoint, served_model"
    )
    op.drop_table("kept")
    op.drop_column("api_requests", "cost")
    op.drop_column("api_requests", "price_id")
    for table in ("audit_events", "prices", "refresh_tokens"):
        op.drop_table(table)
    with op.batch_alter_table("api_keys") as keys:
        for column in ("scopes", "limits", "expires_at"):
            keys.drop_column(column)
    with op.batch_alter_table("users") as users:
        users.drop_constraint("fk_users_tier", type_="foreignkey")
        for column in (
            "tier", "status", "password_hash", "limits", "credit", "spent_before_credit",
            "tokens_from",
        ):  # fmt: skip
            users.drop_column(column)
    op.drop_table("tiers")


def _create_tiers() -> None:
    tiers = op.create_table(
        "tiers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("models", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("model_limits", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tiers"),
    )
    limits = {"free": FREE, "premium": PREMIUM, "enterprise": {}}
    op.bulk_insert(
        tiers,
        [
            {"name": n, "scopes": SCOPES, "models": None, "limits": given, "model_limits": {}}
            for n, given in limits.items()
        ],
    )


def _widen_users_and_keys() -> None:
    # A default for the rows that are there; whoever was here first keeps having no limits.
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("tier", sa.String, nullable=False, server_default="enterprise"))
        users.add_column(sa.Column("status", sa.String, nullable=False, server_default="active"))
        users.add_column(sa.Column("password_hash", sa.String, nullable=True))
        users.add_column(sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
        users.add_column(sa.Column("credit", sa.BigInteger, nullable=True))
        users.add_column(
            sa.Column("spent_before_credit", sa.BigInteger, nullable=False, server_default="0")
        )
        users.add_column(sa.Column("tokens_from", MOMENT, nullable=False, server_default=NOW))
        users.create_foreign_key("fk_users_tier", "tiers", ["tier"], ["name"])
    with op.batch_alter_table("users") as users:
        users.alter_column("tier", server_default=None)
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("scopes", sa.JSON(none_as_null=True), nullable=True))
        keys.add_column(sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
        keys.add_column(sa.Column("expires_at", MOMENT, nullable=True))


def _create_tokens_prices_audit() -> None:
    op.create_table(
        "refresh_tokens",
        sa.Column("id", ID, nullable=False),
        sa.Column("family", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_refresh_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_refresh_tokens_user_id"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_refresh_tokens_key_id"),
        sa.UniqueConstraint("hash", name="uq_refresh_tokens_hash"),
    )
    op.create_index("ix_refresh_tokens_family", "refresh_tokens", ["family"])
    op.create_index("ix_refresh_tokens_user_id", "refresh_tokens", ["user_id"])
    op.create_table(
        "prices",
        sa.Column("id", ID, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("valid_from", MOMENT, nullable=False),
        sa.Column("prompt", sa.BigInteger(), nullable=False),
        sa.Column("cached", sa.BigInteger(), nullable=False),
        sa.Column("completion", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.BigInteger(), nullable=False),
        sa.Column("second", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prices"),
    )
    op.create_index("ix_prices_model_valid_from", "prices", ["model", "valid_from"])
    op.create_table(
        "audit_events",
        sa.Column("id", ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object", sa.String(), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )


def _rebuild_sums() -> None:
    """Sum up anew from the requests: the old sums do not know by which key they were made."""
    op.drop_table("usage_hourly")
    key = sa.Column("key_id", ID, nullable=False)
    _create_sums("usage_hourly", [key], sa.Column("cost", sa.BigInteger(), nullable=False))
    statement = (
        "INSERT INTO usage_hourly (user_id, hour, key_id, endpoint, served_model, requests,"
        " successes, prompt_tokens, completion_tokens, units, cost, response_time_ms)"
        " SELECT user_id, HOUR, key_id, endpoint, coalesce(served_model, ''), count(*),"
        " sum(CASE WHEN state = 'completed' THEN 1 ELSE 0 END), sum(prompt_tokens),"
        " sum(completion_tokens), sum(units), 0, sum(coalesce(response_time_ms, 0))"
        " FROM api_requests WHERE state NOT IN ('open', 'interrupted')"
        " GROUP BY user_id, HOUR, key_id, endpoint, coalesce(served_model, '')"
    )
    hour = "date_trunc('hour', created_at, 'UTC')"
    if op.get_bind().dialect.name == "sqlite":
        hour = "strftime('%Y-%m-%d %H:00:00.000000', created_at)"
    op.execute(statement.replace("HOUR", hour))


def _create_days_retention_instances() -> None:
    cost = sa.Column("cost", sa.BigInteger(), nullable=False)
    _create_sums("usage_daily", [], cost, period=sa.Column("day", sa.Date(), nullable=False))
    statement = (
        "INSERT INTO usage_daily (user_id, day, endpoint, served_model, requests,"
        " successes, prompt_tokens, completion_tokens, units, cost, response_time_ms)"
        " SELECT user_id, DAY, endpoint, served_model, sum(requests), sum(successes),"
        " sum(prompt_tokens), sum(completion_tokens), sum(units), sum(cost),"
        " sum(response_time_ms) FROM usage_hourly"
        " GROUP BY user_id, DAY, endpoint, served_model"
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(
        statement.replace("DAY", "date(hour)" if sqlite else "(hour AT TIME ZONE 'UTC')::date")
    )
    op.create_table(
        "retention",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("whole_from", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_retention"),
    )
    op.create_table(
        "instances",
        sa.Column("id", ID, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )


def _create_sums(
    name: str,
    key: "list[sa.Column[Any]]",
    *cost: sa.Column[int],
    period: "sa.Column[Any] | None" = None,
) -> None:
    period = sa.Column("hour", MOMENT, nullable=False) if period is None else period
    op.create_table(
        name,
        sa.Column("user_id", ID, nullable=False),
        period,
        *key,
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("served_model", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("successes", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        *cost,
        sa.Column("response_time_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "user_id", period.name, *(c.name for c in key), "endpoint", "served_model",
            name=f"pk_{name}",
        ),
        sqlite_with_rowid=False,
    )  # fmt: skip
