"""One user floods a model with a single slot; another asks once. Both see where they stand."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from galley.cli.app import app
from galley.core.catalogue import ModelSettings
from galley.db.tables import new_id
from galley.schemas.chat import ChatRequest
from galley.services.charge import Arrival
from galley.services.chat import gather
from tests.routers.office import Office, open_app
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Call, Upstream, misbehaving, well

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("fair_queue")]

FLOOD = 50
LONGEST_S = 60.0


class Gate:
    """A model's server that answers one request at a time, whenever the test lets it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._open = asyncio.Semaphore(0)

    async def __call__(self, call: Call) -> None:
        self.calls.append(call.body["messages"][0]["content"])
        await self._open.acquire()
        await well(call)

    def let(self, upstream: Upstream, answers: int) -> None:
        """Let so many answers begin."""
        for _ in range(answers):
            upstream._loop.call_soon_threadsafe(self._open.release)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; what it looks at is changed by other threads."""
    async with asyncio.timeout(LONGEST_S):
        while not condition():  # noqa: ASYNC110 - these know no events of ours
            await asyncio.sleep(0.01)


@dataclass
class Asked:
    """A streamed chat, read as it comes."""

    request_id: str = ""
    lines: list[str] = field(default_factory=list[str])

    @property
    def stands(self) -> list[tuple[int, int]]:
        """The places in the queue that it was told."""
        told = [line.split() for line in self.lines if line.startswith(": position")]
        return [(int(words[2]), int(words[4])) for words in told]


@dataclass
class Place:
    """A client of such a server, and when the model answers."""

    server: LiveServer
    upstream: Upstream
    gate: Gate
    client: httpx2.AsyncClient

    async def ask(self, key: str, text: str, asked: Asked) -> Asked:
        body = _chat(text) | {"stream": True}
        headers = {"authorization": f"Bearer {key}"}
        async with self.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            asked.request_id = answer.headers["request-id"]
            async for line in answer.aiter_lines():
                asked.lines.append(line)
        return asked

    async def until(self, waiting: int) -> None:
        """Wait until so many wait for the model."""
        line = f'galley_queue_length{{model="slow"}} {waiting}.0'
        async with asyncio.timeout(LONGEST_S):
            while line not in await self.metrics():  # noqa: ASYNC110 - it is in another thread
                await asyncio.sleep(0.02)

    async def metrics(self) -> str:
        return (await self.client.get("/metrics")).text

    async def receipt(self, key: str, asked: Asked) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {key}"}
        found = await self.client.get(f"/v1/requests/{asked.request_id}", headers=headers)
        return found.json()


@dataclass
class Slow:
    """A running server with one slow model, and the keys of two users."""

    server: LiveServer
    upstream: Upstream
    flooder: str
    other: str


def free(server: LiveServer) -> None:
    """Give the model its price."""
    assert server.client.put("/v1/admin/prices/slow", json={"prompt": 0}).status_code == 200


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    with misbehaving() as upstream:
        model = ModelSettings(kind="chat", source=upstream.url, slots=1)
        folder = tmp_path_factory.mktemp("slow")
        settings = make_settings(folder, folder, models={"slow": model}, embedded_models=False)
        with serving(settings) as server:
            server.until_ready()
            free(server)
            yield Slow(server, upstream, server.key_of_new_user(), server.key_of_new_user())


@asynccontextmanager
async def open_place(server: LiveServer, upstream: Upstream) -> AsyncGenerator[Place]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        gate = Gate()
        upstream.behaviour = gate
        yield Place(server, upstream, gate, client)
        gate.let(upstream, 2 * FLOOD)


async def test_a_flood_does_not_move_anothers_wait_and_both_see_where_they_stand(
    slow: Slow,
) -> None:
    flooder, other = slow.flooder, slow.other
    flood, single = [Asked() for _ in range(FLOOD)], Asked()
    async with open_place(slow.server, slow.upstream) as place, asyncio.TaskGroup() as tasks:
        for asked in flood:
            tasks.create_task(place.ask(flooder, "flood", asked))
        await place.until(FLOOD - 1)
        mine = tasks.create_task(place.ask(other, "single", single))
        await place.until(FLOOD)
        last = (FLOOD, FLOOD)
        await eventually(lambda: single.stands and any(last in one.stands for one in flood))

        place.gate.let(place.upstream, 2)
        await mine
        begun = list(place.gate.calls)
        place.gate.let(place.upstream, FLOOD)

    assert begun[:2] == ["flood", "single"], "it waited for the end of one turn"
    assert single.stands[0] == (1, FLOOD)
    async with open_place(slow.server, slow.upstream) as place:
        of_single = await place.receipt(other, single)
        of_flood = [(await place.receipt(flooder, one))["detail"]["queue"] for one in flood]
        metrics = await place.metrics()
    assert of_single["detail"]["queue"] == {"position": 1, "of": FLOOD, "behind": 0}
    assert of_single["detail"]["timings"]["queued_ms"] > 1000
    assert sum(queue is None for queue in of_flood) == 1, "the first began at once"
    assert max(queue["behind"] for queue in of_flood if queue) == FLOOD - 1
    assert f'galley_queue_wait_seconds_count{{tier="enterprise"}} {FLOOD}.0' in metrics
    asked = ["why", single.request_id, "--server", slow.server.url, "--key", other]
    shown = (await asyncio.to_thread(CliRunner().invoke, app, asked)).output
    assert f"queue came as 1 of {FLOOD}, 0 went first" in " ".join(shown.split())


async def test_who_hangs_up_in_the_queue_leaves_it_at_once(
    slow: Slow,
) -> None:
    async with open_place(slow.server, slow.upstream) as place, asyncio.TaskGroup() as tasks:
        tasks.create_task(place.ask(slow.other, "first", Asked()))
        await eventually(lambda: place.gate.calls)
        leaving = tasks.create_task(place.ask(slow.other, "leaving", Asked()))
        await place.until(1)
        leaving.cancel()
        await place.until(0)
        staying = tasks.create_task(place.ask(slow.other, "staying", Asked()))
        await place.until(1)
        place.gate.let(place.upstream, 2)
        await staying

    assert place.gate.calls == ["first", "staying"]


async def test_who_waits_too_long_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    with misbehaving() as upstream:
        model = ModelSettings(kind="chat", source=upstream.url, slots=1, queue_wait=0.2)
        settings = make_settings(tmp_path, tmp_path, models={"slow": model}, embedded_models=False)
        with serving(settings) as server:
            server.until_ready()
            await asyncio.to_thread(free, server)
            async with open_place(server, upstream) as place, asyncio.TaskGroup() as tasks:
                tasks.create_task(place.ask(server.key, "first", Asked()))
                await eventually(lambda: place.gate.calls)

                refused = await asyncio.to_thread(
                    server.client.post, "/v1/chat/completions", json=_chat("late")
                )
                place.gate.let(upstream, 1)

            row = server.row(refused)
            receipt = server.client.get(f"/v1/requests/{refused.headers['request-id']}").json()

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_timeout"
    assert int(refused.headers["retry-after"]) >= 1
    assert (row["state"], row["cost"]) == ("refused", 0)
    assert receipt["detail"]["queue"] == {"position": 1, "of": 1, "behind": None}


async def test_work_in_the_background_lets_everybody_else_go_first(tmp_path: Path) -> None:
    gate = Gate()
    with misbehaving(gate) as upstream:
        model = ModelSettings(kind="chat", source=upstream.url, slots=1)
        settings = make_settings(tmp_path, tmp_path, models={"slow": model}, embedded_models=False)
        async with open_app(settings) as office, asyncio.TaskGroup() as tasks:
            await eventually(office.runtime.models.loaded_chat)
            await office.admin.put("/v1/admin/prices/slow", json={"prompt": 0})
            queue = office.runtime.chat.queue(office.runtime.models.loaded_chat()[0])
            tasks.create_task(office.admin.post("/v1/chat/completions", json=_chat("first")))
            await eventually(lambda: gate.calls)
            tasks.create_task(_answer_in_background(office, "line"))
            await eventually(lambda: queue.back.waiting)
            tasks.create_task(office.admin.post("/v1/chat/completions", json=_chat("second")))
            await eventually(lambda: queue.waiting)

            gate.let(upstream, 3)

    assert gate.calls == ["first", "second", "line"]


async def _answer_in_background(office: Office, text: str) -> None:
    """Do what a batch does with a line."""
    runtime, bootstrap_key = office.runtime, office.runtime.settings.bootstrap_key
    assert bootstrap_key is not None
    caller = await runtime.accounts.authenticate(bootstrap_key.get_secret_value())
    async with runtime.meter.hold(Arrival(new_id(), None), caller, "chat") as charge:
        charge.background = True
        answer = await runtime.chat.stream(charge, ChatRequest.model_validate(_chat(text)))
        await gather(answer, 1)
        await runtime.meter.settle(charge)


def _chat(text: str) -> dict[str, Any]:
    return {"model": "slow", "messages": [{"role": "user", "content": text}]}
