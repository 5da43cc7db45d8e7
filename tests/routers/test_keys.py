"""One's own keys."""

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from galley.core.security import is_well_formed
from galley.services import keys
from tests.routers.office import Office, Person, open_office

pytestmark = pytest.mark.anyio

UNKNOWN = [
    "no-uuid",
    "0193fd1e-df93-7326-9084-fd00f13dc9db",
    "' OR '1'='1",
    "%00",
    "%F0%9F%94%91",
    "a" * 5000,
]
JSON = {"content-type": "application/json"}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org")


@pytest.fixture
async def bob(office: Office) -> Person:
    return await office.hire("bob@example.org")


async def test_a_key_is_shown_once_and_listed_by_its_ends(ada: Person) -> None:
    made = (await ada.client.post("/v1/keys", json={"name": "laptop"})).json()
    listed = (await ada.client.get("/v1/keys")).json()
    one = (await ada.client.get(f"/v1/keys/{made['id']}")).json()

    assert is_well_formed(made["key"])
    assert (made["prefix"], made["last_four"]) == (made["key"][:7], made["key"][-4:])
    assert (made["user_id"], made["scopes"], made["limits"]) == (ada.id, None, {})
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert [key["id"] for key in listed["data"]] == [ada.key_id, made["id"]]
    assert one == listed["data"][1]
    assert "key" not in one


async def test_an_empty_key_is_none_as_from_a_variable_that_is_not_set(office: Office) -> None:
    nobody = office.knock("")

    ordinary = await nobody.get("/v1/models")
    of_a_model = await nobody.post("/v1/embeddings", json={})
    named = await nobody.get("/v1/models", headers={"authorization": "", "x-api-key": ""})

    codes = {answer.json()["error"]["code"] for answer in (ordinary, of_a_model, named)}
    assert codes == {"missing_api_key"}


async def test_a_key_has_its_own_scopes_limits_and_end(office: Office, ada: Person) -> None:
    body = {"name": "ci", "scopes": ["usage", "usage"], "limits": {"requests_per_day": 5}}
    made = (await ada.client.post("/v1/keys", json=body | {"expires_in_days": 30})).json()
    narrow = office.knock(made["key"])

    assert (made["scopes"], made["limits"]) == (["usage"], {"requests_per_day": 5})
    end = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < end <= timedelta(days=30)
    assert (await narrow.get("/v1/usage")).status_code == 200
    refused = await narrow.get("/v1/keys")
    assert refused.status_code == 403
    assert "`keys`" in refused.json()["detail"]


async def test_a_route_of_the_front_door_names_the_scope_that_is_missing(
    office: Office, ada: Person
) -> None:
    narrow = await office.narrow(ada.client, "usage")

    openai = await narrow.post("/v1/embeddings", content=b"{not read")
    native = await narrow.post("/classify", content=b"{not read")
    models = await narrow.get("/v1/models")

    assert openai.status_code == native.status_code == 403
    assert openai.json()["error"]["code"] == "missing_scope"
    assert "`embeddings`" in openai.json()["error"]["message"]
    assert "`classify`" in native.json()["detail"]
    assert models.status_code == 200
    for _ in range(500):  # nobody waits for a refusal to be written
        if (await ada.client.get("/v1/usage")).json()["total_requests"] == 2:
            return
        await anyio.sleep(0.01)
    pytest.fail("the refusals were never recorded")


async def test_nobody_grants_what_they_do_not_hold(office: Office, ada: Person) -> None:
    narrow = await office.narrow(ada.client, "keys", "usage")

    admin = await ada.client.post("/v1/keys", json={"name": "x", "scopes": ["admin:users"]})
    everything = await ada.client.post("/v1/keys", json={"name": "x", "scopes": ["admin:*"]})
    wider = await narrow.post("/v1/keys", json={"name": "x", "scopes": ["chat", "keys"]})
    unsaid = await narrow.post("/v1/keys", json={"name": "x"})
    turned = await narrow.post(f"/v1/keys/{ada.key_id}/rotate", json={})

    assert [a.status_code for a in (admin, everything, wider, turned)] == [403] * 4
    assert "`admin:users`" in admin.json()["detail"]
    assert unsaid.json()["scopes"] == ["keys", "usage"], "all that this caller has, and no more"
    names = [key["name"] for key in (await ada.client.get("/v1/keys")).json()["data"]]
    assert names == ["first", "narrow", "x"]


async def test_a_key_with_limits_makes_renews_and_limits_no_keys(
    office: Office, ada: Person
) -> None:
    body = {"name": "few", "limits": {"requests_per_day": 50}}
    few = (await ada.client.post("/v1/keys", json=body)).json()
    holder = office.knock(few["key"])

    answers = [
        await holder.post("/v1/keys", json={"name": "x"}),
        await holder.post("/v1/keys", json=body),
        await holder.post(f"/v1/keys/{ada.key_id}/rotate", json={}),
        await holder.post(f"/v1/keys/{few['id']}/rotate", json={}),
        await holder.patch(f"/v1/keys/{few['id']}", json={"limits": {}}),
    ]
    renamed = await holder.patch(f"/v1/keys/{few['id']}", json={"name": "renamed"})
    by_its_owner = await ada.client.post(f"/v1/keys/{few['id']}/rotate", json={})

    assert [answer.status_code for answer in answers] == [403] * 5
    assert "limits of its own" in answers[0].json()["detail"]
    assert (renamed.json()["name"], renamed.json()["limits"]) == ("renamed", few["limits"])
    assert by_its_owner.json()["limits"] == few["limits"]


async def test_a_login_by_a_key_with_limits_makes_no_keys_either(
    office: Office, ada: Person
) -> None:
    body = {"name": "few", "limits": {"requests_per_day": 50}}
    few = (await ada.client.post("/v1/keys", json=body)).json()
    login = (await ada.client.post("/v1/auth/token", json={"api_key": few["key"]})).json()

    refused = await office.knock(login["access_token"]).post("/v1/keys", json={"name": "x"})

    assert refused.status_code == 403


async def test_a_key_that_ends_makes_none_that_opens_for_longer(
    office: Office, ada: Person
) -> None:
    body = {"name": "short", "expires_in_days": 10}
    short = (await ada.client.post("/v1/keys", json=body)).json()
    holder = office.knock(short["key"])

    unsaid = (await holder.post("/v1/keys", json={"name": "x"})).json()
    sooner = await holder.post("/v1/keys", json={"name": "x", "expires_in_days": 5})
    later = await holder.post("/v1/keys", json={"name": "x", "expires_in_days": 11})
    renewed = (await holder.post(f"/v1/keys/{unsaid['id']}/rotate", json={})).json()
    endless = (await holder.post(f"/v1/keys/{ada.key_id}/rotate", json={})).json()

    assert (sooner.status_code, later.status_code) == (200, 403)
    assert short["expires_at"][:19] in later.json()["detail"]
    ends = {unsaid["expires_at"], renewed["expires_at"], endless["expires_at"]}
    assert ends == {short["expires_at"]}


async def test_what_an_admin_gives_to_others_is_not_bound_by_the_admins_own_key(
    office: Office, ada: Person
) -> None:
    body = {"name": "desk", "limits": {"requests_per_day": 50}, "expires_in_days": 1}
    desk = office.knock((await office.admin.post("/v1/keys", json=body)).json()["key"])
    admin_id = (await office.admin.get("/v1/me")).json()["user_id"]

    given = await desk.post(f"/v1/admin/users/{ada.id}/keys", json={"name": "x"})
    own = await desk.post(f"/v1/admin/users/{admin_id}/keys", json={"name": "x"})

    assert (given.status_code, given.json()["expires_at"]) == (200, None)
    assert own.status_code == 403


async def test_a_revoked_key_opens_nothing_from_that_moment_on(office: Office, ada: Person) -> None:
    made = (await ada.client.post("/v1/keys", json={"name": "lost"})).json()
    lost = office.knock(made["key"])
    assert (await lost.get("/v1/models")).status_code == 200

    revoked = await ada.client.delete(f"/v1/keys/{made['id']}")
    again = await ada.client.delete(f"/v1/keys/{made['id']}")

    assert revoked.json()["revoked_at"] is not None
    assert (await lost.get("/v1/models")).status_code == 401
    assert again.status_code == 404
    listed = (await ada.client.get(f"/v1/keys/{made['id']}")).json()
    assert listed["revoked_at"] == revoked.json()["revoked_at"]


async def test_a_renewed_key_is_like_the_old_one_which_opens_for_the_overlap(
    office: Office, ada: Person
) -> None:
    body = {"name": "ci", "scopes": ["usage"], "limits": {"concurrency": 2}, "expires_in_days": 10}
    old = (await ada.client.post("/v1/keys", json=body)).json()

    renewed = await ada.client.post(f"/v1/keys/{old['id']}/rotate", json={"overlap_seconds": 60})

    new = renewed.json()
    assert new["id"] != old["id"]
    assert [new[name] for name in ("name", "scopes", "limits")] == [
        "ci",
        ["usage"],
        {"concurrency": 2},
    ]
    assert datetime.fromisoformat(new["expires_at"]) > datetime.fromisoformat(old["expires_at"])
    for key in (old["key"], new["key"]):
        assert (await office.knock(key).get("/v1/usage")).status_code == 200
    end = (await ada.client.get(f"/v1/keys/{old['id']}")).json()["expires_at"]
    assert datetime.fromisoformat(end) <= datetime.now(UTC) + timedelta(seconds=60)


async def test_without_an_overlap_the_old_key_is_closed_at_once(
    office: Office, ada: Person
) -> None:
    old = (await ada.client.post("/v1/keys", json={"name": "ci"})).json()
    holder = office.knock(old["key"])

    new = (await holder.post(f"/v1/keys/{old['id']}/rotate", json={})).json()

    assert (await holder.get("/v1/models")).status_code == 401
    assert (await office.knock(new["key"]).get("/v1/models")).status_code == 200
    again = await ada.client.post(f"/v1/keys/{old['id']}/rotate", json={})
    assert again.status_code == 404


async def test_a_keys_name_and_limits_are_changed_and_nothing_else(ada: Person) -> None:
    path = f"/v1/keys/{ada.key_id}"

    named = (await ada.client.patch(path, json={"name": "renamed"})).json()
    limited = (await ada.client.patch(path, json={"limits": {"tokens_per_day": 9}})).json()
    wider = await ada.client.patch(path, json={"scopes": ["admin:users"]})
    null = await ada.client.patch(path, json={"name": None})

    assert (named["name"], named["limits"]) == ("renamed", {})
    assert (limited["name"], limited["limits"]) == ("renamed", {"tokens_per_day": 9})
    assert wider.status_code == null.status_code == 422
    assert wider.json()["detail"][0]["loc"] == ["body", "scopes"]
    assert (await ada.client.get(path)).json() == limited


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
async def test_the_key_of_another_is_as_if_it_were_not_there(
    method: str, ada: Person, bob: Person
) -> None:
    async def ask(key_id: str) -> Any:
        path = f"/v1/keys/{key_id}" + ("/rotate" if method == "POST" else "")
        body = None if method in ("GET", "DELETE") else {}
        return await bob.client.request(method, path, json=body)

    foreign, unknown = await ask(ada.key_id), [await ask(key_id) for key_id in UNKNOWN]

    assert foreign.status_code == 404
    assert {answer.status_code for answer in unknown} == {404}
    assert {answer.text for answer in unknown} == {foreign.text}
    assert (await ada.client.get("/v1/models")).status_code == 200


async def test_no_more_keys_are_open_than_there_may_be(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MOST_OPEN", 3)

    made = [await ada.client.post("/v1/keys", json={"name": "x"}) for _ in range(3)]
    kept_both = await ada.client.post(f"/v1/keys/{ada.key_id}/rotate", json={"overlap_seconds": 9})
    await ada.client.delete(f"/v1/keys/{made[0].json()['id']}")
    after = await ada.client.post("/v1/keys", json={"name": "x"})

    assert [answer.status_code for answer in (*made, kept_both, after)] == [200, 200, 409, 409, 200]


async def test_keys_come_in_pages(ada: Person) -> None:
    for name in "abcd":
        await ada.client.post("/v1/keys", json={"name": name})

    first = (await ada.client.get("/v1/keys", params={"limit": 3})).json()
    last = first["data"][-1]["id"]
    rest = (await ada.client.get("/v1/keys", params={"limit": 3, "after": last})).json()
    wrong = await ada.client.get("/v1/keys", params={"after": "'; DROP TABLE users"})

    assert [key["name"] for key in first["data"] + rest["data"]] == ["first", *"abcd"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert wrong.status_code == 400


BAD = [
    {},
    {"name": ""},
    {"name": "x" * 101},
    {"name": "nul\0"},
    {"name": "line\nbreak"},
    {"name": "\ud800"},
    {"name": 5},
    {"name": "x", "tier": "enterprise"},
    {"name": "x", "is_admin": True},
    {"name": "x", "user_id": "0193fd1e-df93-7326-9084-fd00f13dc9db"},
    {"name": "x", "key": "gk_mine"},
    {"name": "x", "scopes": []},
    {"name": "x", "scopes": ["chat", "fly"]},
    {"name": "x", "scopes": "chat"},
    {"name": "x", "expires_in_days": 0},
    {"name": "x", "expires_in_days": 1.5},
    {"name": "x", "expires_in_days": 10**400},
    {"name": "x", "expires_at": 4_102_444_800},
    {"name": "x", "expires_at": "2099-01-01T00:00:00"},
    {"name": "x", "expires_at": "soon"},
    {"name": "x", "expires_at": "2030-01-01T00:00:00Z", "expires_in_days": 5},
    {"name": "x", "limits": {"requests_per_minute": -1}},
    {"name": "x", "limits": {"requests_per_minute": 1.5}},
    {"name": "x", "limits": {"requests_per_minute": True}},
    {"name": "x", "limits": {"requests_per_minute": 10**16}},
    {"name": "x", "limits": {"everything": 5}},
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: str(body)[:60])
async def test_a_key_that_makes_no_sense_is_refused_and_not_made(
    body: dict[str, Any], ada: Person
) -> None:
    refused = await ada.client.post("/v1/keys", content=json.dumps(body), headers=JSON)

    assert refused.status_code == 422, refused.text
    assert refused.json()["detail"][0]["loc"][0] == "body"
    assert len((await ada.client.get("/v1/keys")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("2020-01-01T00:00:00Z", 400),
        ("9999-12-31T23:59:59Z", 400),
        ("9999-12-31T23:59:59-23:59", 422),  # a time that no calendar of ours has
        ("0001-01-01T00:00:00+23:59", 422),
    ],
)
async def test_a_key_ends_neither_in_the_past_nor_in_a_hundred_years(
    end: str, status: int, ada: Person
) -> None:
    refused = await ada.client.post("/v1/keys", json={"name": "x", "expires_at": end})

    assert refused.status_code == status, refused.text
    assert "expires_at" in str(refused.json()["detail"])


@pytest.mark.parametrize("seconds", [-1, 604_801, 1.5, "60", None])
async def test_an_overlap_is_a_week_at_most(seconds: object, ada: Person) -> None:
    path = f"/v1/keys/{ada.key_id}/rotate"

    refused = await ada.client.post(path, json={"overlap_seconds": seconds})

    assert refused.status_code == 422


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"name": "x", "name": "y"}',
        b'{"name": NaN}',
        b"[" * 100_000,
        b'{"name": "\xff"}',
    ],
)
async def test_a_body_that_is_not_json_with_one_meaning_is_refused(
    content: bytes, ada: Person
) -> None:
    refused = await ada.client.post("/v1/keys", content=content, headers=JSON)

    assert refused.status_code == 422, refused.text


async def test_a_body_is_not_read_before_its_sender_is_known(office: Office, ada: Person) -> None:
    read = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1_000_000

    stranger = await office.knock("gk_x").post("/v1/keys", content=endless())
    narrow = await (await office.narrow(ada.client, "usage")).post("/v1/keys", content=endless())
    assert read == 0

    known = await ada.client.post("/v1/keys", content=endless())

    assert [a.status_code for a in (stranger, narrow, known)] == [401, 403, 413]
    assert read < 20


async def test_another_method_is_405_and_all_that_the_path_takes_are_named(ada: Person) -> None:
    refused = await ada.client.put(f"/v1/keys/{ada.key_id}")

    assert refused.status_code == 405
    assert refused.headers["allow"] == "DELETE, GET, PATCH"


SQL = "x'); DROP TABLE api_keys; --"


async def test_sql_in_a_name_is_a_name(ada: Person) -> None:
    made = (await ada.client.post("/v1/keys", json={"name": SQL})).json()

    assert (await ada.client.get(f"/v1/keys/{made['id']}")).json()["name"] == SQL
