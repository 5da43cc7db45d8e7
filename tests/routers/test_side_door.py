"""Requests from within, which may come again after a crash: under the same id, and for good."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import orjson
import pytest

from galley.core.catalogue import ModelSettings
from galley.db.tables import new_id
from galley.routers import side_door
from galley.services.charge import Arrival
from galley.services.side_door import Asked
from tests.routers.office import Office, open_app
from tests.serving import make_settings
from tests.upstream import Upstream, misbehaving

pytestmark = pytest.mark.anyio


@pytest.fixture
def far() -> Iterator[Upstream]:
    with misbehaving() as server:
        yield server


@pytest.fixture
async def office(far: Upstream, tmp_path: Path) -> AsyncGenerator[Office]:
    models = {"far": ModelSettings(kind="chat", source=far.url)}
    settings = make_settings(tmp_path, tmp_path, embedded_models=False, models=models)
    async with open_app(settings) as office:
        (await office.admin.put("/v1/admin/prices/far", json={"prompt": 0})).raise_for_status()
        while "loading" in (await office.admin.get("/health")).text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        yield office


async def test_a_response_that_is_asked_again_is_answered_and_the_last_one_is_kept(
    office: Office,
) -> None:
    ada = await office.hire("ada@example.org")
    caller = await office.runtime.accounts.caller(ada.id, ada.key_id)
    body, request_id = orjson.dumps({"model": "far", "input": "Hi"}), new_id()

    answers = [
        await side_door.answer(
            office.runtime, Asked(caller, "/v1/responses", body, Arrival(request_id, None))
        )
        for _ in range(2)
    ]

    assert [answer.status for answer in answers] == [200, 200], answers
    last = orjson.loads(answers[-1].body)
    assert (await ada.client.get(f"/v1/responses/{last['id']}")).json() == last
    assert len((await ada.client.get("/v1/requests")).json()["data"]) == 1
