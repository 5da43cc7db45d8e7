"""Queries on `definitions`: models and routes that admins named at run time."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from galley.db.tables import Definition

Kind = Literal["model", "route"]
KINDS: Sequence[Kind] = get_args(Kind)


async def current_definitions(session: AsyncSession) -> Sequence[Definition]:
    """The latest definition of every model and route, by name; those that are gone are left out."""
    # PostgreSQL before 18 knows no greatest UUID.
    age = func.row_number().over(
        partition_by=(Definition.kind, Definition.name), order_by=Definition.id.desc()
    )
    latest = select(Definition.id, age.label("age")).subquery()
    query = (
        select(Definition)
        .join(latest, latest.c.id == Definition.id)
        .where(latest.c.age == 1)
        .order_by(Definition.name)
    )
    return [row for row in (await session.scalars(query)).all() if row.spec is not None]


async def last_definitions(
    session: AsyncSession, *, kind: Kind, name: str, limit: int
) -> Sequence[Definition]:
    """The latest definitions of one name, the newest first; `spec` is null where it was gone."""
    query = select(Definition).where(Definition.kind == kind, Definition.name == name)
    return (await session.scalars(query.order_by(Definition.id.desc()).limit(limit))).all()


async def add_definition(
    session: AsyncSession, *, kind: Kind, name: str, spec: dict[str, Any] | None
) -> Definition:
    """Define a name anew from now on."""
    row = Definition(kind=kind, name=name, spec=spec)
    session.add(row)
    await session.flush()
    return row
