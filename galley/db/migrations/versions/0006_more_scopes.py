"""Documents, files and jobs have scopes of their own."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BEFORE = ["chat", "embeddings", "classify", "usage", "keys"]
NEW = ["documents", "files", "jobs"]


def upgrade() -> None:
    """Give them to the tiers that could do everything; a tier kept short stays short."""
    for name, scopes in _tiers():
        if set(scopes) >= set(BEFORE):
            _store(name, [*scopes, *(scope for scope in NEW if scope not in scopes)])


def downgrade() -> None:
    """Take them from every tier."""
    for name, scopes in _tiers():
        _store(name, [scope for scope in scopes if scope not in NEW])


def _tiers() -> list[tuple[str, list[str]]]:
    rows = op.get_bind().execute(sa.text("SELECT name, scopes FROM tiers")).all()
    return [(n, json.loads(scopes) if isinstance(scopes, str) else scopes) for n, scopes in rows]


def _store(name: str, scopes: list[str]) -> None:
    given = sa.text("UPDATE tiers SET scopes = :scopes WHERE name = :name").bindparams(
        sa.bindparam("scopes", type_=sa.JSON)
    )
    op.get_bind().execute(given, {"scopes": scopes, "name": name})
