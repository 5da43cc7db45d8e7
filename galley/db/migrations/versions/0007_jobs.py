"""Jobs: work that goes on after its request was answered, and whom their end is told."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "jobs",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("request_id", ID, nullable=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("idempotency_key", sa.String, nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("lease", ID, nullable=True),
        sa.Column("leased_until", MOMENT, nullable=True),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=True),
        sa.Column("message", sa.String, nullable=True),
        sa.Column("result", sa.JSON, nullable=True),
        sa.Column("error_code", sa.String, nullable=True),
        sa.Column("error_message", sa.String, nullable=True),
        sa.Column("log", sa.JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_jobs_user_id"),
    )
    for columns in (
        ["user_id", "id"],
        ["user_id", "started_at"],
        ["user_id", "idempotency_key"],
        ["status", "user_id", "due_at"],
        ["lease"],
    ):
        is_unique = bool({"idempotency_key", "lease"} & set(columns))
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns, unique=is_unique)
    op.create_table(
        "webhooks",
        sa.Column("job_id", ID, primary_key=True),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("secret", sa.String, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("delivered_at", MOMENT, nullable=True),
        sa.Column("error", sa.String, nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_webhooks_job_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_webhooks_due_at", "webhooks", ["due_at"])


def downgrade() -> None:
    """Take them back, with all that was to be done."""
    op.drop_table("webhooks")
    op.drop_table("jobs")
