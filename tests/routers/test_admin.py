"""What admins do, and what nobody else can."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.routers.office import Office, Person, open_office

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
SQL = "x'; DROP TABLE users; --"
UNKNOWN = ["no-uuid", "0193fd1e-df93-7326-9084-fd00f13dc9db", "' OR '1'='1", "%00", "a" * 5000]
PASSWORD = "correct horse battery staple"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org")


async def me(office: Office) -> str:
    """The id of the first admin."""
    return (await office.admin.get("/v1/admin/users")).json()["data"][0]["id"]


async def test_a_user_is_added_found_and_listed(office: Office) -> None:
    body = {"email": "Ada@Example.org", "name": "Ada", "tier": "premium", "password": PASSWORD}
    made = await office.admin.post("/v1/admin/users", json=body | {"limits": {"concurrency": 1}})
    user = made.json()
    one = await office.admin.get(f"/v1/admin/users/{user['id']}")
    found = await office.admin.get("/v1/admin/users", params={"email": "ADA@"})
    nobody = await office.admin.get("/v1/admin/users", params={"email": "%"})

    shown = {name: user[name] for name in ("email", "tier", "status", "is_admin", "has_password")}
    assert shown == {
        "email": "ada@example.org",
        "tier": "premium",
        "status": "active",
        "is_admin": False,
        "has_password": True,
    }
    assert user["limits"] == {"concurrency": 1}
    assert one.json() == user
    assert found.json() == {"object": "list", "data": [user], "has_more": False}
    assert nobody.json()["data"] == []
    assert "argon2" not in made.text + one.text


async def test_users_come_in_pages(office: Office) -> None:
    for name in "abc":
        await office.hire(f"{name}@example.org")

    first = (await office.admin.get("/v1/admin/users", params={"limit": 2})).json()
    after = {"limit": 2, "after": first["data"][-1]["id"]}
    rest = (await office.admin.get("/v1/admin/users", params=after)).json()

    emails = [user["email"].partition("@")[0] for user in first["data"] + rest["data"]]
    assert emails == ["admin", "a", "b", "c"]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_an_address_is_taken_once_however_it_is_written(office: Office, ada: Person) -> None:
    again = await office.admin.post(
        "/v1/admin/users", json={"email": "ADA@example.org", "name": "Ada"}
    )

    assert again.status_code == 409
    assert len((await office.admin.get("/v1/admin/users")).json()["data"]) == 2


async def test_a_change_of_a_user_counts_from_their_next_request_on(
    office: Office, ada: Person
) -> None:
    tier = {"scopes": ["usage"], "limits": {"requests_per_minute": 1}}
    await office.admin.put("/v1/admin/tiers/small", json=tier)
    assert (await ada.client.get("/v1/keys")).status_code == 200

    moved = await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"tier": "small"})

    assert moved.json()["tier"] == "small"
    assert (await ada.client.get("/v1/keys")).status_code == 403


async def test_a_change_of_a_tier_counts_from_the_next_request_on(
    office: Office, ada: Person
) -> None:
    assert (await ada.client.get("/v1/keys")).status_code == 200

    await office.admin.put("/v1/admin/tiers/free", json={"scopes": ["chat"]})

    assert (await ada.client.get("/v1/keys")).status_code == 403


async def test_who_is_disabled_is_shut_out_at_once_until_they_are_active_again(
    office: Office, ada: Person
) -> None:
    assert (await ada.client.get("/v1/models")).status_code == 200

    disabled = await office.admin.delete(f"/v1/admin/users/{ada.id}")
    outside = await ada.client.get("/v1/models")
    active = await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"status": "active"})

    assert disabled.json()["status"] == "disabled"
    assert outside.status_code == 401
    assert active.json()["status"] == "active"
    assert (await ada.client.get("/v1/models")).status_code == 200


async def test_what_a_change_leaves_out_stays(office: Office, ada: Person) -> None:
    path = f"/v1/admin/users/{ada.id}"
    await office.admin.patch(path, json={"limits": {"images_per_minute": None, "concurrency": 2}})

    renamed = (await office.admin.patch(path, json={"name": "Ada L."})).json()
    cleared = (await office.admin.patch(path, json={"limits": {}})).json()

    assert renamed["name"] == "Ada L."
    assert renamed["limits"] == {"images_per_minute": None, "concurrency": 2}
    assert (cleared["name"], cleared["limits"]) == ("Ada L.", {})


@pytest.mark.parametrize("change", [{"status": "disabled"}, {"is_admin": False}])
async def test_the_last_admin_can_be_neither_disabled_nor_demoted(
    change: dict[str, Any], office: Office
) -> None:
    path = f"/v1/admin/users/{await me(office)}"
    other = await office.hire("other@example.org", is_admin=True)
    await office.admin.delete(f"/v1/admin/users/{other.id}")

    refused = await office.admin.patch(path, json=change)
    deleted = await office.admin.delete(path)

    assert refused.status_code == deleted.status_code == 409
    assert "last active admin" in refused.json()["detail"]
    assert (await office.admin.get(path)).json()["is_admin"] is True
    await office.admin.patch(f"/v1/admin/users/{other.id}", json={"status": "active"})
    assert (await office.admin.patch(path, json=change)).status_code == 200


async def test_only_full_admins_make_or_change_admins(office: Office) -> None:
    other = await office.hire("other@example.org", is_admin=True)
    clerk = await office.narrow(office.admin, "admin:users", "admin:tiers", "chat")
    user = (await office.hire("ada@example.org")).id
    path = f"/v1/admin/users/{other.id}"
    body = {"email": "eve@example.org", "name": "Eve", "is_admin": True}

    refused = [
        await clerk.post("/v1/admin/users", json=body),
        await clerk.patch(f"/v1/admin/users/{user}", json={"is_admin": True}),
        await clerk.patch(path, json={"is_admin": False}),
        await clerk.patch(path, json={"name": "Renamed"}),
        await clerk.delete(path),
        await clerk.post(f"{path}/keys", json={"name": "x", "scopes": ["chat"]}),
        await clerk.delete(f"{path}/keys/{other.key_id}"),
    ]
    allowed = await clerk.patch(f"/v1/admin/users/{user}", json={"tier": "premium"})

    assert [answer.status_code for answer in refused] == [403] * 7
    assert all("full admins" in answer.json()["detail"] for answer in refused)
    assert allowed.status_code == 200
    assert (await office.admin.get(path)).json()["status"] == "active"


async def test_an_admin_grants_no_more_than_they_and_the_user_hold(
    office: Office, ada: Person
) -> None:
    clerk = await office.narrow(office.admin, "admin:users", "chat", "usage")
    path = f"/v1/admin/users/{ada.id}/keys"

    beyond_me = await clerk.post(path, json={"name": "x", "scopes": ["embeddings"]})
    beyond_them = await clerk.post(path, json={"name": "x", "scopes": ["admin:users"]})
    unsaid = await clerk.post(path, json={"name": "x"})

    assert beyond_me.status_code == beyond_them.status_code == 403
    assert "you do not have it" in beyond_me.json()["detail"]
    assert "its owner does not" in beyond_them.json()["detail"]
    assert unsaid.json()["scopes"] == ["chat", "usage"]


async def test_an_admin_lists_makes_and_revokes_the_keys_of_a_user(
    office: Office, ada: Person
) -> None:
    path = f"/v1/admin/users/{ada.id}/keys"

    made = (await office.admin.post(path, json={"name": "given"})).json()
    listed = (await office.admin.get(path)).json()["data"]
    revoked = await office.admin.delete(f"{path}/{ada.key_id}")

    assert [key["name"] for key in listed] == ["first", "given"]
    assert (await office.knock(made["key"]).get("/v1/usage")).status_code == 200
    assert revoked.json()["revoked_at"] is not None
    assert (await ada.client.get("/v1/usage")).status_code == 401


async def test_a_key_is_found_under_its_owner_alone(office: Office, ada: Person) -> None:
    bob = await office.hire("bob@example.org")

    elsewhere = await office.admin.delete(f"/v1/admin/users/{bob.id}/keys/{ada.key_id}")

    assert elsewhere.status_code == 404
    assert (await ada.client.get("/v1/usage")).status_code == 200


async def test_tiers_are_made_replaced_and_deleted_when_nobody_is_in_them(
    office: Office, ada: Person
) -> None:
    tier = {
        "scopes": ["chat", "usage"],
        "models": ["small"],
        "limits": {"requests_per_minute": 3},
        "model_limits": {"small": {"tokens_per_day": 10}},
    }

    made = await office.admin.put("/v1/admin/tiers/trial", json=tier)
    replaced = await office.admin.put("/v1/admin/tiers/trial", json={"limits": {}})
    names = [t["name"] for t in (await office.admin.get("/v1/admin/tiers")).json()["data"]]
    used = await office.admin.delete("/v1/admin/tiers/enterprise")
    deleted = await office.admin.delete("/v1/admin/tiers/trial")
    gone = await office.admin.delete("/v1/admin/tiers/trial")

    assert {name: made.json()[name] for name in tier} == tier
    assert (replaced.json()["models"], replaced.json()["limits"]) == (None, {})
    assert names == ["enterprise", "free", "premium", "trial"]
    assert (used.status_code, deleted.status_code, gone.status_code) == (409, 200, 404)


async def test_what_has_the_wrong_form_is_said_in_words(office: Office) -> None:
    user = await office.admin.post("/v1/admin/users", json={"email": "bob", "name": "Bob"})
    tier = await office.admin.put("/v1/admin/tiers/My%20tier", json={})
    month = await office.admin.get("/v1/invoices/november")
    cat = {"email": "cat@example.org", "name": "Cat", "password": "short"}
    password = await office.admin.post("/v1/admin/users", json=cat)

    said = [refused.json()["detail"][0]["msg"] for refused in (user, tier, month, password)]
    assert said == [
        "this is no address such as ada@example.org",
        "a tier's name is up to 64 of a-z, 0-9, - and _, a letter or digit first",
        "this is no month such as 2026-11",
        "a password has 12 to 256 characters",
    ]


async def test_the_tier_that_new_users_come_into_stays(office: Office) -> None:
    refused = await office.admin.delete("/v1/admin/tiers/free")

    assert refused.status_code == 409
    assert "New users come into the tier free" in refused.json()["detail"]


async def test_every_action_is_in_the_audit_log_with_what_was_and_what_is(
    office: Office, ada: Person
) -> None:
    admin = await me(office)
    await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"tier": "premium"})
    await office.admin.put("/v1/admin/tiers/trial", json={"scopes": ["chat"]})
    await office.admin.delete("/v1/admin/tiers/trial")
    await office.admin.delete(f"/v1/admin/users/{ada.id}/keys/{ada.key_id}")

    events = await office.audit()

    assert [event["action"] for event in reversed(events)] == [
        "user.create",
        "key.create",
        "user.update",
        "tier.create",
        "tier.delete",
        "key.revoke",
    ]
    assert {event["user_id"] for event in events} == {admin}
    changed = events[3]
    assert changed["object"] == f"user:{ada.id}"
    assert (changed["before"]["tier"], changed["after"]["tier"]) == ("free", "premium")
    assert events[0]["object"] == f"user:{ada.id}/key:{ada.key_id}"
    assert (events[0]["before"]["revoked_at"], events[1]["after"]) == (None, None)
    assert events[5]["before"] is None


async def test_the_audit_log_is_filtered_and_comes_in_pages(office: Office, ada: Person) -> None:
    log = "/v1/admin/audit"
    everything = await office.audit()

    by_action = (await office.admin.get(log, params={"action": "key.create"})).json()
    by_object = (await office.admin.get(log, params={"object": f"user:{ada.id}"})).json()
    by_user = (await office.admin.get(log, params={"user": ada.id})).json()
    by_nobody = (await office.admin.get(log, params={"user": SQL})).json()
    first = (await office.admin.get(log, params={"limit": 1})).json()
    after = {"after": first["data"][0]["id"]}
    rest = (await office.admin.get(log, params=after)).json()

    assert by_action["data"] == everything[:1]
    assert by_object["data"] == everything[1:]
    assert by_user["data"] == by_nobody["data"] == []
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"] + rest["data"] == everything


async def test_a_refused_action_is_not_in_the_audit_log(office: Office, ada: Person) -> None:
    before = await office.audit()

    await office.admin.post("/v1/admin/users", json={"email": "ada@example.org", "name": "A"})
    await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"tier": "none-such"})
    await office.admin.delete(f"/v1/admin/users/{await me(office)}")
    await office.admin.delete("/v1/admin/tiers/free")

    assert await office.audit() == before


async def test_no_secret_is_in_the_audit_log(office: Office, ada: Person) -> None:
    body = {"email": "eve@example.org", "name": "Eve", "password": PASSWORD}
    await office.admin.post("/v1/admin/users", json=body)
    made = await office.admin.post(f"/v1/admin/users/{ada.id}/keys", json={"name": "x"})

    said = json.dumps(await office.audit())

    assert PASSWORD not in said
    assert "argon2" not in said
    assert made.json()["key"] not in said
    assert "hash" not in said


async def test_who_is_no_admin_gets_nowhere_and_is_told_the_scope(
    office: Office, ada: Person
) -> None:
    ways = {
        ("GET", "/users"): "admin:users",
        ("POST", "/users"): "admin:users",
        ("PATCH", f"/users/{ada.id}"): "admin:users",
        ("DELETE", f"/users/{ada.id}"): "admin:users",
        ("GET", f"/users/{ada.id}/keys"): "admin:users",
        ("PUT", "/tiers/free"): "admin:tiers",
        ("DELETE", "/tiers/trial"): "admin:tiers",
        ("GET", "/audit"): "admin:audit",
    }

    for (method, path), scope in ways.items():
        answer = await ada.client.request(method, f"/v1/admin{path}", content=b"{", headers=JSON)
        assert answer.status_code == 403, path
        assert f"`{scope}`" in answer.json()["detail"]


@pytest.mark.parametrize("unknown", UNKNOWN)
async def test_what_is_not_there_is_a_404(unknown: str, office: Office, ada: Person) -> None:
    answers = [
        await office.admin.get(f"/v1/admin/users/{unknown}"),
        await office.admin.patch(f"/v1/admin/users/{unknown}", json={"name": "x"}),
        await office.admin.delete(f"/v1/admin/users/{unknown}"),
        await office.admin.get(f"/v1/admin/users/{unknown}/keys"),
        await office.admin.post(f"/v1/admin/users/{unknown}/keys", json={"name": "x"}),
        await office.admin.delete(f"/v1/admin/users/{ada.id}/keys/{unknown}"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 6


USER = {"email": "eve@example.org", "name": "Eve"}
BAD_USERS = [
    {},
    {"email": "eve"},
    {"email": "eve@example.org\0"},
    {"email": "e v e@example.org"},
    {"email": "e" * 250 + "@example.org"},
    {"tier": SQL},
    {"name": "\ud800"},
    {"password": "short"},
    {"password": "x" * 257},
    {"password_hash": "$argon2id$"},
    {"scopes": ["admin:*"]},
    {"status": "disabled"},
    {"id": "0193fd1e-df93-7326-9084-fd00f13dc9db"},
    {"is_admin": "yes"},
    {"is_admin": 1},
    {"limits": {"cost_per_day": -1}},
    {"limits": {"cost_per_day": 0.5}},
    {"limits": {"cost_per_day": 10**16}},
    {"limits": {"cost_per_day": "5"}},
    {"limits": {"cost_per_year": 5}},
    {"limits": [5]},
]


@pytest.mark.parametrize("body", BAD_USERS, ids=lambda body: str(body)[:60])
async def test_a_user_who_makes_no_sense_is_refused_and_not_made(
    body: dict[str, Any], office: Office
) -> None:
    given = USER | body if body else {}

    refused = await office.admin.post("/v1/admin/users", content=json.dumps(given), headers=JSON)

    assert refused.status_code == 422, refused.text
    assert len((await office.admin.get("/v1/admin/users")).json()["data"]) == 1
    assert await office.audit() == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": None},
        {"is_admin": None},
        {"limits": None},
        {"status": "deleted"},
        {"email": "new@example.org"},
        {"password": "short"},
        {"scopes": ["admin:*"]},
        {"limits": {"images_per_minute": -5}},
        {"limits": {"images_per_minute": 1.0}},
    ],
    ids=str,
)
async def test_a_change_that_makes_no_sense_is_refused_and_not_made(
    body: dict[str, Any], office: Office, ada: Person
) -> None:
    path = f"/v1/admin/users/{ada.id}"
    before = (await office.admin.get(path)).json()

    refused = await office.admin.patch(path, json=body)

    assert refused.status_code == 422, refused.text
    assert (await office.admin.get(path)).json() == before


async def test_a_password_that_an_admin_sets_opens_and_ends_every_login(
    office: Office, ada: Person
) -> None:
    path, login = f"/v1/admin/users/{ada.id}", {"email": "ada@example.org"}
    await office.admin.patch(path, json={"password": PASSWORD})
    old = (await office.admin.post("/v1/auth/token", json=login | {"password": PASSWORD})).json()
    logged_in = office.knock(old["access_token"])
    assert (await logged_in.get("/v1/models")).status_code == 200

    changed = await office.admin.patch(path, json={"password": "another long password"})

    assert changed.json()["has_password"] is True
    assert (await logged_in.get("/v1/models")).status_code == 401
    refresh = {"refresh_token": old["refresh_token"]}
    answers = [
        await office.admin.post("/v1/auth/refresh", json=refresh),
        await office.admin.post("/v1/auth/token", json=login | {"password": PASSWORD}),
        await office.admin.post(
            "/v1/auth/token", json=login | {"password": "another long password"}
        ),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert (await ada.client.get("/v1/models")).status_code == 200, "keys stay"


async def test_the_audit_log_says_that_a_password_was_set_and_not_which(
    office: Office, ada: Person
) -> None:
    await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"password": PASSWORD})

    (event, *_) = await office.audit()

    assert (event["action"], event["object"]) == ("user.update", f"user:{ada.id}")
    assert event["after"]["password"] == "changed"
    assert "password" not in event["before"]
    assert PASSWORD not in str(event)
    assert "argon2" not in str(event)


async def test_the_password_of_an_admin_is_set_by_full_admins_alone_even_ones_own(
    office: Office,
) -> None:
    other = await office.hire("other@example.org", is_admin=True)
    narrow = await office.narrow(office.admin, "admin:users")
    body = {"password": PASSWORD}

    theirs = await narrow.patch(f"/v1/admin/users/{other.id}", json=body)
    own = await narrow.patch(f"/v1/admin/users/{await me(office)}", json=body)
    allowed = await office.admin.patch(f"/v1/admin/users/{other.id}", json=body)

    assert [answer.status_code for answer in (theirs, own, allowed)] == [403, 403, 200]
    users = (await office.admin.get("/v1/admin/users")).json()["data"]
    assert [user["has_password"] for user in users] == [False, True]


async def test_a_topped_up_user_sees_what_is_left_of_it(office: Office, ada: Person) -> None:
    before = (await ada.client.get("/v1/me")).json()

    topped_up = await office.admin.post(
        f"/v1/admin/users/{ada.id}/credit", json={"amount": 2_500_000}
    )

    after = (await ada.client.get("/v1/me")).json()
    usage = (await ada.client.get("/v1/usage")).json()
    listed = (await office.admin.get("/v1/admin/users")).json()["data"][-1]
    assert (topped_up.json()["credit"], topped_up.json()["credit_left"]) == (2_500_000, 2_500_000)
    assert (before["credit_left"], after["credit_left"]) == (None, 2_500_000)
    assert listed == topped_up.json()
    for limits in (after["limits"], usage["limits"]):
        (credit,) = (limit for limit in limits if limit["period"] == "ever")
        assert (credit["metric"], credit["remaining"]) == ("cost", 2_500_000)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"amount": 0},
        {"amount": -1},
        {"amount": 1.5},
        {"amount": "5"},
        {"amount": True},
        {"amount": None},
        {"amount": 10**15 + 1},
        {"amount": 5, "credit": 7},
    ],
    ids=str,
)
async def test_credit_that_makes_no_sense_is_refused_and_not_given(
    body: dict[str, Any], office: Office, ada: Person
) -> None:
    refused = await office.admin.post(f"/v1/admin/users/{ada.id}/credit", json=body)

    assert refused.status_code == 422, refused.text
    assert (await office.admin.get(f"/v1/admin/users/{ada.id}")).json()["credit"] is None


async def test_nobody_gives_credit_to_themselves_or_to_nobody(office: Office, ada: Person) -> None:
    own = await ada.client.post(f"/v1/admin/users/{ada.id}/credit", json={"amount": 5})
    nobodys = [
        await office.admin.post(f"/v1/admin/users/{user_id}/credit", json={"amount": 5})
        for user_id in UNKNOWN[:3]
    ]

    assert own.status_code == 403
    assert [answer.status_code for answer in nobodys] == [404] * 3


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("trial", {"scopes": ["admin:users"]}),
        ("trial", {"scopes": ["admin:*"]}),
        ("trial", {"scopes": "chat"}),
        ("trial", {"name": "other"}),
        ("trial", {"is_admin": True}),
        ("trial", {"models": [""]}),
        ("trial", {"models": ["galley/chat"]}),
        ("trial", {"model_limits": {"galley/chat": {"requests_per_minute": 1}}}),
        ("trial", {"limits": {"requests_per_minute": -1}}),
        ("trial", {"limits": {"requests_per_minute": 1e3}}),
        ("trial", {"model_limits": {"m": {"requests_per_minute": 10**19}}}),
        ("trial", {"model_limits": {"m": 5}}),
        ("Trial", {}),
        ("%00", {}),
        ("x'--", {}),
        ("x" * 65, {}),
    ],
)
async def test_a_tier_that_makes_no_sense_is_refused_and_not_made(
    name: str, body: dict[str, Any], office: Office
) -> None:
    refused = await office.admin.put(f"/v1/admin/tiers/{name}", json=body)

    assert refused.status_code == 422, refused.text
    assert len((await office.admin.get("/v1/admin/tiers")).json()["data"]) == 3


async def test_a_tier_that_is_not_there_is_refused_by_name(office: Office, ada: Person) -> None:
    made = await office.admin.post("/v1/admin/users", json=USER | {"tier": "none-such"})
    moved = await office.admin.patch(f"/v1/admin/users/{ada.id}", json={"tier": "none-such"})

    assert made.status_code == moved.status_code == 400
    assert "no such tier" in made.json()["detail"]


async def test_sql_is_text_like_any_other(office: Office) -> None:
    body = {"email": "a'--@example.org", "name": SQL}

    made = (await office.admin.post("/v1/admin/users", json=body)).json()
    found = await office.admin.get("/v1/admin/users", params={"email": "a'--"})
    searched = [
        await office.admin.get("/v1/admin/users", params={"email": SQL}),
        await office.admin.get("/v1/admin/audit", params={"action": SQL, "object": SQL}),
    ]

    assert found.json()["data"] == [made]
    assert made["name"] == SQL
    assert [answer.json()["data"] for answer in searched] == [[], []]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "email=%00", "after=" + "a" * 65]
)
async def test_a_query_out_of_bounds_is_refused_and_its_place_is_named(
    query: str, office: Office
) -> None:
    refused = await office.admin.get(f"/v1/admin/users?{query}")

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]
