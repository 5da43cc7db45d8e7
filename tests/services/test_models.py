"""Models that come and go while the server runs."""

import asyncio

import pytest

from galley.core.catalogue import ModelSettings
from galley.engines.base import Engine
from galley.services.models import Models

pytestmark = pytest.mark.anyio

FAR = ModelSettings(kind="chat", source="http://a/v1", replicas=("http://b/v1",))


class Place:
    """Where a model runs; knows whether it was closed."""

    hardware = "another server"
    problem: str | None = None

    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


class Places:
    """Opens places when they are let; the one at `broken` cannot be opened."""

    def __init__(self, *, broken: str = "") -> None:
        self.gate = asyncio.Event()
        self.opened: list[Place] = []
        self._broken = broken

    async def open(self, name: str, settings: ModelSettings) -> Engine:
        await self.gate.wait()
        if settings.source == self._broken:
            raise ValueError("the variable KEY is not set")
        self.opened.append(Place())
        return self.opened[-1]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_model_that_is_taken_away_while_it_loads_is_closed_once_it_has() -> None:
    models, places = Models({}), Places()
    models.add("far", FAR, places.open)
    await settled()

    models.remove("far")
    places.gate.set()
    await settled()

    assert [place.closed for place in places.opened] == [True, True]
    await models.aclose()


async def test_a_replica_that_cannot_be_opened_closes_those_before_it() -> None:
    models, places = Models({}), Places(broken="http://b/v1")
    places.gate.set()

    models.add("far", FAR, places.open)
    await settled()

    assert [place.closed for place in places.opened] == [True]
    assert models.find("far").problem == "the variable KEY is not set"
    await models.aclose()


async def test_a_model_that_is_changed_closes_the_old_one_and_keeps_the_new() -> None:
    models, places = Models({}, grace_s=0), Places()
    places.gate.set()
    models.add("far", FAR, places.open)
    await settled()

    models.add("far", FAR.model_copy(update={"slots": 2}), places.open)
    await settled()

    assert [place.closed for place in places.opened] == [True, True, False, False]
    await models.aclose()
    assert all(place.closed for place in places.opened)


async def test_a_model_that_is_taken_away_stays_open_for_who_has_it_in_hand_or_is_at_it() -> None:
    models, places = Models({}, grace_s=0.05), Places()
    places.gate.set()
    models.add("far", FAR, places.open)
    await settled()
    (first, _) = models.find("far").replicas

    models.remove("far")
    await settled()
    in_hand = [place.closed for place in places.opened]
    first.busy = 1  # it begins
    await asyncio.sleep(0.12)
    at_it = [place.closed for place in places.opened]
    first.busy = 0
    await asyncio.sleep(0.12)

    assert (in_hand, at_it) == ([False, False], [False, False])
    assert [place.closed for place in places.opened] == [True, True]
    await models.aclose()


async def test_a_server_that_stops_does_not_wait_for_models_that_were_taken_away() -> None:
    models, places = Models({}), Places()
    places.gate.set()
    models.add("far", FAR, places.open)
    await settled()
    models.remove("far")
    await settled()

    async with asyncio.timeout(1):
        await models.aclose()

    assert [place.closed for place in places.opened] == [True, True]
