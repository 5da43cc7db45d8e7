"""A server on PostgreSQL makes the months before anybody asks it for anything."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from galley.db.session import visit_database
from tests.serving import make_settings, serving


def test_the_first_request_of_a_server_is_in_its_month(
    postgresql_url_at_head: str, models_dir: Path, tmp_path: Path
) -> None:
    async def partition() -> str:
        query = text("SELECT tableoid::regclass::text FROM api_requests")
        async with visit_database(postgresql_url_at_head) as sessions, sessions() as session:
            return (await session.scalars(query)).one()

    settings = make_settings(
        tmp_path, models_dir, database_url=postgresql_url_at_head, embedded_models=False
    )
    with serving(settings) as server:
        refused = server.post("/v1/chat/completions", model="nobodys", messages=[])

    came = datetime.fromtimestamp((UUID(refused.headers["request-id"]).int >> 80) / 1000, UTC)
    assert asyncio.run(partition()) == f"api_requests_{came:%Y_%m}"
