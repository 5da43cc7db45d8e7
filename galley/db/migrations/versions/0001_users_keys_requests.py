"""Users, keys, requests and their hourly sums."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")
MOMENT = sa.DateTime(timezone=True)
OPEN = sa.text("state = 'open'")


def upgrade() -> None:
    """Make all four tables."""
    op.create_table(
        "users",
        sa.Column("id", ID, nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("prefix", sa.String(7), nullable=False),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_keys_user_id"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    _create_requests()
    op.create_table(
        "usage_hourly",
        sa.Column("user_id", ID, nullable=False),
        sa.Column("hour", MOMENT, nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("served_model", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("successes", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("response_time_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "user_id", "hour", "endpoint", "served_model", name="pk_usage_hourly"
        ),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop them, with all that is in them."""
    for table in ("usage_hourly", "api_requests", "api_keys", "users"):
        op.drop_table(table)


def _create_requests() -> None:
    op.create_table(
        "api_requests",
        sa.Column("request_id", ID, nullable=False),
        sa.Column("client_request_id", sa.String(), nullable=True),
        sa.Column("instance_id", ID, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("served_model", sa.String(), nullable=True),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("first_token_ms", sa.Double(), nullable=True),
        sa.Column("response_time_ms", sa.Double(), nullable=True),
        sa.Column("ignored_fields", sa.String(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_api_requests"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_api_requests_user_id_request_id", "api_requests", ["user_id", "request_id"])
    op.create_index(
        "ix_api_requests_open",
        "api_requests",
        ["instance_id"],
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
