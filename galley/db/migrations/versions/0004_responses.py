"""OpenAI's Responses that are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.LargeBinary(16).with_variant(sa.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "responses",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("items", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_responses_user_id"),
    )
    op.create_index("ix_responses_user_id", "responses", ["user_id"])


def downgrade() -> None:
    """Take it back, with all that was kept."""
    op.drop_table("responses")
