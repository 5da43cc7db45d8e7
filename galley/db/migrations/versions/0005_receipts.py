"""Receipts, feedback, and the route of a request whose users are drawn to one of several models."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    """Add the tables, the column and its index."""
    op.create_table(
        "receipts",
        sa.Column("request_id", ID, primary_key=True),
        sa.Column("detail", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feedback",
        sa.Column("request_id", ID, primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("comment", sa.String, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("api_requests", sa.Column("route", sa.String, nullable=True))
    drawn = sa.text("arm IS NOT NULL")
    op.create_index(
        "ix_api_requests_drawn",
        "api_requests",
        ["route", "request_id"],
        sqlite_where=drawn,
        postgresql_where=drawn,
    )


def downgrade() -> None:
    """Take them back; what was recorded in them is lost."""
    op.drop_index("ix_api_requests_drawn", "api_requests")
    op.drop_column("api_requests", "route")
    op.drop_table("feedback")
    op.drop_table("receipts")
