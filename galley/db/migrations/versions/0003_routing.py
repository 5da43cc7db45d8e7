"""Models and routes named at run time; which arm, attempts and cache answered a request."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "definitions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("spec", sa.JSON, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_definitions_kind_name_id", "definitions", ["kind", "name", "id"])
    op.add_column("api_requests", sa.Column("arm", sa.String, nullable=True))
    op.add_column(
        "api_requests", sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0")
    )
    op.add_column("api_requests", sa.Column("cache", sa.String, nullable=True))


def downgrade() -> None:
    """Take them back; what was recorded in them is lost."""
    for column in ("cache", "attempts", "arm"):
        op.drop_column("api_requests", column)
    op.drop_table("definitions")
