"""Clears away what nothing in PostgreSQL's tables of passages shows any more."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from galley.stores.passages_ids import span

STAGED_FOR = timedelta(hours=1)
"""A version that nobody has written to for so long is the leftover of a crash."""

_AT_ONCE = 2_000  # passages that one transaction deletes


async def discard(connection: AsyncConnection, *versions: int | None) -> None:
    """Leave versions that nothing shows to `tidy`."""
    await connection.exec_driver_sql(
        "UPDATE document_versions SET status = 'discarded' WHERE id = ANY($1::bigint[])",
        ([version for version in versions if version is not None],),
    )


async def give_up(connection: AsyncConnection, version: int) -> None:
    """Leave a version that was not finished to `tidy`."""
    await connection.exec_driver_sql(
        "UPDATE document_versions SET status = 'discarded' WHERE id = $1 AND status = 'staged'",
        (version,),
    )


async def give_up_silent(connection: AsyncConnection, now: datetime) -> None:
    """Do so with those that nobody has written to for long: their servers died."""
    await connection.exec_driver_sql(
        "UPDATE document_versions SET status = 'discarded'"
        " WHERE status = 'staged' AND written_at < $1",
        (now - STAGED_FOR,),
    )


async def tidy(connection: AsyncConnection) -> bool:
    """Delete some of what nothing shows any more; False when nothing is left to this server."""
    found = await connection.exec_driver_sql(
        "SELECT id FROM document_versions WHERE status = 'discarded' ORDER BY id LIMIT 1"
        " FOR UPDATE SKIP LOCKED"
    )
    version: int | None = found.scalar()
    if version is None:
        return False
    first, last = span(version)
    gone = await connection.exec_driver_sql(
        "DELETE FROM passages WHERE id IN"
        " (SELECT id FROM passages WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT $3) RETURNING id",
        (first, last, _AT_ONCE),
    )
    ids = gone.scalars().all()
    end = max(ids) if len(ids) == _AT_ONCE else last
    for table in ("passage_vectors", "passage_words"):
        await connection.exec_driver_sql(
            f"DELETE FROM {table} WHERE id BETWEEN $1 AND $2",  # noqa: S608 - of constants
            (first, end),
        )
    if end == last:
        await connection.exec_driver_sql("DELETE FROM document_versions WHERE id = $1", (version,))
    return True
