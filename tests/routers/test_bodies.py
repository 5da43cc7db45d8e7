"""How a body arrives."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from galley.core.errors import OverloadedError
from galley.main import create_app
from galley.routers.bodies import BodyRoom
from galley.routers.front_door import MOST_BODY_BYTES
from tests.serving import make_settings

pytestmark = pytest.mark.anyio


async def test_a_body_in_many_parts_is_put_together_in_no_time(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, tmp_path, embedded_models=False)
    app = create_app(settings)
    assert settings.bootstrap_key is not None
    headers = {"authorization": f"Bearer {settings.bootstrap_key.get_secret_value()}"}

    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(40_000):
            yield b"a"

    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://galley", headers=headers
        ) as client,
    ):
        begin = time.monotonic()
        answer = await client.post("/v1/embeddings", content=parts())
        took_s = time.monotonic() - begin

    assert answer.status_code == 400
    assert took_s < 5  # adding up all parts at each of them takes 20 s


def test_large_bodies_have_room_together_or_wait_outside() -> None:
    room = BodyRoom(100)
    with room.hold() as alone:
        alone(60)
        with room.hold() as second:
            second(40)
            with pytest.raises(OverloadedError) as refused:
                second(1)
        alone(30)

    assert refused.value.code == "bodies_full"
    with room.hold() as larger_than_all:
        larger_than_all(500)


async def test_texts_of_documents_have_room_together_with_all_other_bodies(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, tmp_path, embedded_models=False, body_limit=MOST_BODY_BYTES)
    app = create_app(settings)
    assert settings.bootstrap_key is not None
    headers = {"authorization": f"Bearer {settings.bootstrap_key.get_secret_value()}"}
    half_sent = asyncio.Event()

    async def more_than_half() -> AsyncGenerator[bytes]:
        for _ in range(16):
            yield bytes(MOST_BODY_BYTES // 30)

    async def never_whole() -> AsyncGenerator[bytes]:
        async for part in more_than_half():
            yield part
        half_sent.set()
        await asyncio.Event().wait()

    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://galley", headers=headers
        ) as client,
    ):
        first = asyncio.create_task(client.post("/v1/documents", content=never_whole()))
        await half_sent.wait()
        answer = await client.post("/v1/documents", content=more_than_half())
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
