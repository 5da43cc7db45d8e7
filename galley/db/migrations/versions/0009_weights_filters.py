"""Tiers have a weight in the queue, and rules for what is said."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give the tiers that came with Galley the weights that they have by default."""
    op.add_column("tiers", sa.Column("weight", sa.Integer, nullable=False, server_default="1"))
    op.add_column("tiers", sa.Column("filters", sa.JSON, nullable=False, server_default="[]"))
    op.execute("UPDATE tiers SET weight = 4 WHERE name = 'premium'")
    op.execute("UPDATE tiers SET weight = 16 WHERE name = 'enterprise'")


def downgrade() -> None:
    """Forget both."""
    op.drop_column("tiers", "filters")
    op.drop_column("tiers", "weight")
