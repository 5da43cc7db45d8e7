"""Models of other servers and routes, set while the server runs."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from galley.core.catalogue import ModelSettings, RouteSettings
from galley.db.definitions import add_definition
from galley.services.routing import Plan
from tests.routers.office import Office, Person, open_app, open_office
from tests.serving import make_settings

pytestmark = pytest.mark.anyio

BIG = {"kind": "chat", "source": "http://127.0.0.1:9/v1"}
SMALL = {"kind": "chat", "source": "http://127.0.0.1:9/v1", "upstream_model": "s"}
CANARY: dict[str, Any] = {"targets": {"big": 90.0, "small": 10.0}, "fallbacks": ["small"]}
CACHE = {"exact": True, "semantic": "off", "shared": False}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        for name, spec in (("big", BIG), ("small", SMALL)):
            made = await office.admin.put(f"/v1/admin/models/{name}", json=spec)
            assert made.status_code == 200, made.text
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org", is_admin=True)


async def route(office: Office, name: str = "smart") -> dict[str, Any] | None:
    found = (await office.admin.get("/v1/admin/routes")).json()["data"]
    return next((r for r in found if r["name"] == name), None)


async def test_a_model_that_is_added_is_there_at_once(office: Office) -> None:
    listed = (await office.admin.get("/v1/admin/models")).json()["data"]

    assert [(m["name"], m["origin"], m["source"]) for m in listed] == [
        ("big", "admin", "http://127.0.0.1"), ("small", "admin", "http://127.0.0.1"),
    ]  # fmt: skip
    ids = [m["id"] for m in (await office.admin.get("/v1/models")).json()["data"]]
    assert ids == ["big", "small"]


async def test_a_model_that_is_changed_gets_a_queue_of_its_new_length(office: Office) -> None:
    models, chat = office.runtime.models, office.runtime.chat
    (before,) = models.chat(Plan(("big",)))

    assert chat.queue(before).slots == 1000
    await office.admin.put("/v1/admin/models/big", json=BIG | {"slots": 2})
    for _ in range(500):  # it is opened in the background
        if models.find("big").state == "loaded":
            break
        await asyncio.sleep(0.01)
    (after,) = models.chat(Plan(("big",)))

    assert chat.queue(after).slots == 2
    assert chat.queue(after) is chat.queue(after)


async def test_a_route_is_listed_among_the_models_and_a_wildcard_is_not(office: Office) -> None:
    await office.admin.put("/v1/admin/routes/smart", json=CANARY)
    await office.admin.put("/v1/admin/routes/gpt-*", json=CANARY)

    ids = [m["id"] for m in (await office.admin.get("/v1/models")).json()["data"]]
    one = await office.admin.get("/v1/models/smart")

    assert ids == ["big", "small", "smart"]
    assert (one.status_code, one.json()["id"], one.json()["kind"]) == (200, "smart", "chat")


async def test_a_route_is_set_promoted_rolled_back_and_deleted(office: Office) -> None:
    made = await office.admin.put("/v1/admin/routes/smart", json=CANARY)
    promoted = await office.admin.post("/v1/admin/routes/smart/promote", json={"target": "small"})

    assert made.json() == {"name": "smart", "origin": "admin", "cache": CACHE} | CANARY
    assert promoted.json()["targets"] == {"big": 0.0, "small": 1.0}
    assert office.runtime.models.plan("smart", await caller_of(office)).models == ("small",)
    assert (await office.admin.post("/v1/admin/routes/smart/rollback")).status_code == 204
    assert (found := await route(office)) is not None
    assert found["targets"] == CANARY["targets"]
    assert (await office.admin.delete("/v1/admin/routes/smart")).status_code == 204
    assert await route(office) is None


async def caller_of(office: Office) -> Any:
    return await office.runtime.accounts.authenticate(
        office.admin.headers["authorization"].removeprefix("Bearer ")
    )


async def test_every_change_is_in_the_audit_log(office: Office) -> None:
    await office.admin.put("/v1/admin/routes/smart", json=CANARY)
    await office.admin.post("/v1/admin/routes/smart/promote", json={"target": "big"})
    await office.admin.delete("/v1/admin/routes/smart")
    await office.admin.delete("/v1/admin/models/small")

    log = await office.audit()

    assert [(e["action"], e["object"]) for e in log] == [
        ("model.delete", "model:small"), ("route.delete", "route:smart"),
        ("route.set", "route:smart"), ("route.set", "route:smart"),
        ("model.set", "model:small"), ("model.set", "model:big"),
    ]  # fmt: skip
    assert log[2]["before"] == CANARY
    assert log[2]["after"]["targets"] == {"big": 1.0, "small": 0.0}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("models/local", {"kind": "chat", "source": "path:/etc/passwd"}, 422),
        ("models/key", BIG | {"api_key_env": "GALLEY_JWT_SECRET_KEY"}, 422),
        ("models/key", BIG | {"api_key_env": "HOME"}, 422),
        ("models/key", BIG | {"api_key_file": "/etc/passwd"}, 422),
        ("models/key", BIG | {"headers": {"x-org": "env:GALLEY_JWT_SECRET"}}, 422),
        ("models/main", BIG | {"default": True}, 422),
        ("models/a%20b", BIG, 422),
        ("models/galley/chat", BIG, 422),
        ("models/more", BIG | {"unheard": 1}, 422),
        ("routes/smart", {"targets": {"nobody": 1}}, 400),
        ("routes/smart", {"targets": {"big": 1}, "fallbacks": ["nobody"]}, 400),
        ("routes/smart", {"targets": {"big": 0}}, 422),
        ("routes/smart", {"targets": {"big": -1}}, 422),
        ("routes/smart", {"targets": {}}, 422),
        ("routes/sm*rt", {"targets": {"big": 1}}, 422),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    path: str, body: dict[str, Any], status: int, office: Office
) -> None:
    before = await office.audit()

    refused = await office.admin.put(f"/v1/admin/{path}", json=body)

    assert refused.status_code == status, refused.text
    assert await office.audit() == before


async def test_the_models_of_a_route_do_the_same(office: Office) -> None:
    await office.admin.put("/v1/admin/models/vectors", json=BIG | {"kind": "embeddings"})

    refused = await office.admin.put(
        "/v1/admin/routes/smart", json={"targets": {"big": 1}, "fallbacks": ["vectors"]}
    )

    assert refused.status_code == 400
    assert await route(office) is None


async def test_a_model_that_a_route_leads_to_stays(office: Office) -> None:
    await office.admin.put("/v1/admin/routes/smart", json=CANARY)

    refused = await office.admin.delete("/v1/admin/models/small")

    assert refused.status_code == 409
    assert "smart" in refused.json()["detail"]


async def test_what_is_not_there_is_a_404(office: Office) -> None:
    answers = [
        await office.admin.delete("/v1/admin/models/nobody"),
        await office.admin.delete("/v1/admin/routes/nobody"),
        await office.admin.post("/v1/admin/routes/nobody/rollback"),
        await office.admin.post("/v1/admin/routes/nobody/promote", json={"target": "big"}),
    ]

    assert [answer.status_code for answer in answers] == [404] * 4


@pytest.mark.parametrize(
    "names", [{"api_key_env": "HF_TOKEN"}, {"headers": {"x-org": "env:HF_TOKEN"}}]
)
async def test_keys_of_the_server_are_sent_elsewhere_by_full_admins_alone(
    office: Office, ada: Person, names: dict[str, Any]
) -> None:
    narrow = await office.narrow(ada.client, "chat", "admin:models")

    plain = await narrow.put("/v1/admin/models/far", json=BIG)
    refused = await narrow.put("/v1/admin/models/far", json=BIG | names)
    full = await ada.client.put("/v1/admin/models/far", json=BIG | names)

    assert [answer.status_code for answer in (plain, refused, full)] == [200, 403, 200]
    assert "full admins" in refused.json()["detail"]


async def test_what_a_newer_server_wrote_changes_nothing_here(office: Office) -> None:
    await office.admin.put("/v1/admin/routes/smart", json=CANARY)
    async with office.runtime.database.sessions.begin() as session:
        await add_definition(session, kind="route", name="smart", spec=CANARY | {"unheard": 1})
        await add_definition(session, kind="route", name="new", spec={"unheard": 1})
        await add_definition(session, kind="route", name="plain", spec=CANARY)

    await office.runtime.definitions.load()

    routes = office.runtime.models.routes
    assert sorted(routes) == ["plain", "smart"]
    assert routes["smart"] == routes["plain"]


async def test_nobody_without_the_scope_sees_or_changes_them(office: Office, ada: Person) -> None:
    narrow = await office.narrow(ada.client, "chat", "admin:users")

    answers = [
        await narrow.get("/v1/admin/models"),
        await narrow.put("/v1/admin/routes/smart", json=CANARY),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert "`admin:models`" in answers[0].json()["detail"]


async def test_what_was_set_is_there_after_a_restart_and_goes_before_the_settings(
    tmp_path: Path,
) -> None:
    settings = make_settings(
        tmp_path,
        tmp_path,
        embedded_models=False,
        models={"near": ModelSettings(kind="chat", source="http://127.0.0.1:9/v1")},
        routes={"smart": RouteSettings(targets={"near": 1})},
    )
    async with open_app(settings) as office:
        await office.admin.put("/v1/admin/models/big", json=BIG)
        refused = await office.admin.put("/v1/admin/models/near", json=BIG)
        await office.admin.put("/v1/admin/routes/smart", json={"targets": {"big": 1}})

    async with open_app(settings) as office:
        after = await route(office)
        await office.admin.delete("/v1/admin/routes/smart")
        settled = await route(office)

    assert refused.status_code == 409
    assert after == {
        "name": "smart", "origin": "admin", "targets": {"big": 1.0}, "fallbacks": [], "cache": CACHE
    }  # fmt: skip
    assert settled is not None
    assert (settled["origin"], settled["targets"]) == ("settings", {"near": 1.0})


async def test_a_route_whose_name_has_slashes_is_told_from_what_is_done_with_it(
    office: Office,
) -> None:
    made = await office.admin.put("/v1/admin/routes/org/smart", json=CANARY)
    results = await office.admin.get("/v1/admin/routes/org/smart/results")
    wrong = await office.admin.put("/v1/admin/routes/org/smart/results", json=CANARY)

    assert (made.json()["name"], results.json()["route"]) == ("org/smart", "org/smart")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
