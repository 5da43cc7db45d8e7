"""Logging in and out, over HTTP."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.loopback import http, scripted_server
from tests.serving import LiveServer, make_settings, serving
from tests.tokens import RSA, claims, forgeries, key_set, payload_of, sign

PASSWORD = "correct horse battery"
ISSUER = "https://login.example.org/"
CHAT = {"model": "galley/chat", "messages": [{"role": "user", "content": "Hi"}]}
WHAT = sorted(forgeries(bytes(range(32)), claims()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without models, and with an issuer that it trusts."""
    with scripted_server(*[http(key_set(RSA))] * 5) as issuer:
        given = {
            "issuer": ISSUER, "audience": "here", "jwks_url": issuer.base_url, "create_users": True,
        }  # fmt: skip
        folder: Path = tmp_path_factory.mktemp("auth")
        settings = make_settings(
            folder, folder, embedded_models=False, body_limit=10_000, issuers={"example": given}
        )
        with serving(settings) as server:
            yield server


@pytest.fixture
def browser(server: LiveServer) -> Iterator[httpx2.Client]:
    """A client that keeps cookies, and sends no key."""
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def make_user(server: LiveServer, email: str) -> dict[str, str]:
    """Add a user; returns what they log in with."""
    user = {"email": email, "name": "A", "password": PASSWORD}
    answer = server.post("/v1/admin/users", **user)
    assert answer.status_code < 300, answer.text
    return {"email": email, "password": PASSWORD}


def models(server: LiveServer, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return httpx2.get(f"{server.url}/v1/models", headers=headers).status_code


def log_in(server: LiveServer, **grant: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{server.url}/v1/auth/token", json=grant, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_key_is_exchanged_for_tokens_as_oauth_words_them(server: LiveServer) -> None:
    answer = httpx2.post(f"{server.url}/v1/auth/token", json={"api_key": server.key})

    body = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    assert body["refresh_expires_in"] == 30 * 86400
    assert models(server, body["access_token"]) == 200
    assert models(server, body["refresh_token"]) == 401


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_password_opens_and_can_be_changed(server: LiveServer, prefix: str) -> None:
    ada = make_user(server, f"changes{len(prefix)}@example.org")
    token = log_in(server, **ada)["access_token"]
    change = {"old_password": PASSWORD, "new_password": "staple correct horse"}

    changed = httpx2.post(
        f"{server.url}{prefix}/v1/auth/password", json=change,
        headers={"authorization": f"Bearer {token}"}, timeout=60,
    )  # fmt: skip

    assert changed.status_code == 204
    assert models(server, token) == 401
    old = httpx2.post(f"{server.url}{prefix}/v1/auth/token", json=ada, timeout=60)
    assert (old.status_code, old.json()) == (401, {"detail": "Wrong address or password"})
    assert log_in(server, **(ada | {"password": "staple correct horse"}))


def test_a_refresh_token_used_twice_ends_the_login(server: LiveServer) -> None:
    first = log_in(server, api_key=server.key)
    renew = {"refresh_token": first["refresh_token"]}

    second = httpx2.post(f"{server.url}/v1/auth/refresh", json=renew)
    again = httpx2.post(f"{server.url}/v1/auth/refresh", json=renew)

    assert (second.status_code, again.status_code) == (200, 401)
    assert models(server, first["access_token"]) == 401
    assert models(server, second.json()["access_token"]) == 401


def test_a_logout_ends_the_tokens_at_once(server: LiveServer) -> None:
    pair = log_in(server, api_key=server.key)
    assert models(server, pair["access_token"]) == 200

    out = httpx2.post(f"{server.url}/v1/auth/logout", json={"refresh_token": pair["refresh_token"]})

    assert (out.status_code, out.content) == (204, b"")
    assert models(server, pair["access_token"]) == 401


def test_a_token_opens_the_inference_routes_too(server: LiveServer) -> None:
    headers = {"authorization": f"Bearer {log_in(server, api_key=server.key)['access_token']}"}

    answer = httpx2.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=headers)

    assert answer.json()["error"]["code"] == "model_not_found"  # there are no models here


@pytest.fixture(scope="module")
def forged(server: LiveServer) -> dict[str, str]:
    """Forgeries of a token that is good."""
    secret = (server.settings.data_dir / "jwt_secret").read_bytes()
    good = payload_of(log_in(server, api_key=server.key)["access_token"])
    return forgeries(secret, good)


@pytest.mark.parametrize("what", WHAT)
def test_a_forged_token_is_401_in_the_dialect_of_the_route(
    server: LiveServer, forged: dict[str, str], what: str
) -> None:
    headers = {"authorization": f"Bearer {forged[what]}"}
    before = server.client.get("/v1/admin/users").json()

    openai = httpx2.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=headers)
    listed = httpx2.get(f"{server.url}/v1/models", headers=headers)
    native = httpx2.get(f"{server.url}/usage", headers=headers)

    assert (openai.status_code, listed.status_code, native.status_code) == (401, 401, 401)
    code = "token_expired" if what == "expired" else "invalid_token"
    for answer in (openai, listed):
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", code)
    assert isinstance(native.json()["detail"], str)
    assert native.headers["www-authenticate"] == "Bearer"
    assert server.client.get("/v1/admin/users").json() == before


def test_a_token_of_a_trusted_issuer_opens(server: LiveServer) -> None:
    theirs = {"iss": ISSUER, "aud": "here", "sub": "u1", "email": "guest@example.org"}
    good = sign(claims(**theirs, email_verified=True), RSA, "RS256", kid="first")
    unverified = sign(claims(**theirs, email_verified=False), RSA, "RS256", kid="first")

    assert models(server, good) == 200
    assert models(server, unverified) == 401


def test_a_browser_gets_its_tokens_in_cookies_that_no_script_reads(
    server: LiveServer, browser: httpx2.Client
) -> None:
    answer = browser.post("/v1/auth/session", json={"api_key": server.key})

    assert answer.status_code == 200
    assert set(answer.json()) == {"csrf_token", "expires_in", "refresh_expires_in"}
    cookies = {c.partition("=")[0]: c for c in answer.headers.get_list("set-cookie")}
    assert set(cookies) == {"galley_session", "galley_refresh", "galley_csrf"}
    for name, cookie in cookies.items():
        assert "SameSite=lax" in cookie
        assert ("HttpOnly" in cookie) == (name != "galley_csrf")
        assert "Secure" not in cookie  # this came by http
    assert browser.get("/v1/models").status_code == 200
    assert browser.get("/usage").status_code == 200


@pytest.mark.parametrize("sent", [None, "", "wrong", "cookie of another"])
def test_with_cookies_nothing_is_changed_without_the_csrf_token(
    server: LiveServer, browser: httpx2.Client, sent: str | None
) -> None:
    browser.post("/v1/auth/session", json={"api_key": server.key})
    if sent == "cookie of another":
        sent = httpx2.post(f"{server.url}/v1/auth/session", json={"api_key": server.key}).json()[
            "csrf_token"
        ]
    headers = {} if sent is None else {"x-csrf-token": str(sent)}
    key = {"name": "made by another page"}

    refused = [
        browser.post("/v1/keys", json=key, headers=headers),
        browser.post("/v1/auth/logout", json={}, headers=headers),
        browser.put("/v1/auth/session", headers=headers),
        browser.post("/v1/auth/password", json={"new_password": PASSWORD}, headers=headers),
    ]
    chat = browser.post("/v1/chat/completions", json=CHAT, headers=headers)

    assert [answer.status_code for answer in [*refused, chat]] == [403] * 5
    assert chat.json()["error"]["code"] == "csrf_failed"
    assert "x-csrf-token" in refused[0].json()["detail"]
    assert browser.get("/v1/models").status_code == 200
    assert key["name"] not in server.client.get("/v1/keys").text


def test_with_the_csrf_token_a_session_works_is_renewed_and_ends(
    server: LiveServer, browser: httpx2.Client
) -> None:
    csrf = browser.post("/v1/auth/session", json={"api_key": server.key}).json()["csrf_token"]
    before = browser.cookies["galley_session"]

    chat = browser.post("/v1/chat/completions", json=CHAT, headers={"x-csrf-token": csrf})
    renewed = browser.put("/v1/auth/session", headers={"x-csrf-token": csrf})
    stale = browser.post("/v1/auth/logout", json={}, headers={"x-csrf-token": csrf})
    csrf = renewed.json()["csrf_token"]
    after = browser.cookies["galley_session"]
    out = browser.post("/v1/auth/logout", json={}, headers={"x-csrf-token": csrf})

    assert chat.json()["error"]["code"] == "model_not_found"
    assert (renewed.status_code, stale.status_code, out.status_code) == (200, 403, 204)
    assert dict(browser.cookies) == {}
    assert models(server, before) == 401
    assert models(server, after) == 401


def test_a_header_goes_before_the_cookies_and_needs_no_csrf_token(
    server: LiveServer, browser: httpx2.Client
) -> None:
    browser.post("/v1/auth/session", json={"api_key": server.key})

    good = browser.post(
        "/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {server.key}"}
    )
    bad = browser.get("/v1/models", headers={"authorization": "Bearer gk_wrong"})

    assert good.json()["error"]["code"] == "model_not_found"
    assert bad.status_code == 401


def test_a_path_with_several_methods_names_them_all(browser: httpx2.Client) -> None:
    answer = browser.delete("/v1/auth/session")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, PUT")


def test_without_a_session_there_is_nothing_to_renew(browser: httpx2.Client) -> None:
    assert browser.put("/v1/auth/session").status_code == 401
    assert browser.post("/v1/auth/logout", json={}).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "a@example.org"},
        {"password": PASSWORD},
        {"email": "a@example.org", "password": PASSWORD, "api_key": "gk_"},
        {"email": "a@example.org", "password": "x" * 300},
        {"email": "a" * 300, "password": PASSWORD},
        {"email": ["a@example.org"], "password": PASSWORD},
        {"email": "a@example.org", "password": 12},
        {"email": "a@example.org", "password": PASSWORD, "tier": "enterprise"},
        {"api_key": "gk_", "scopes": ["admin:*"]},
        {"api_key": None},
        {"email": "a\0@example.org", "password": PASSWORD},
        [],
        "text",
    ],
)
@pytest.mark.parametrize("path", ["/v1/auth/token", "/v1/auth/session"])
def test_a_grant_that_fits_no_schema_is_422_and_is_not_repeated(
    server: LiveServer, path: str, body: Any
) -> None:
    answer = httpx2.post(f"{server.url}{path}", json=body)

    assert answer.status_code == 422
    assert PASSWORD not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("token", {"email": "a@example.org", "password": "\ud800"}),
        ("token", {"api_key": "\ud800"}),
        ("session", {"email": "a@example.org", "password": "\ud800"}),
        ("refresh", {"refresh_token": "\ud800"}),
        ("logout", {"refresh_token": "\ud800"}),
        ("password", {"old_password": PASSWORD, "new_password": "\ud800" * 12}),
    ],
)
def test_half_a_character_is_no_secret(server: LiveServer, path: str, body: dict[str, str]) -> None:
    headers = {"content-type": "application/json"}
    answer = server.client.post(f"/v1/auth/{path}", content=json.dumps(body), headers=headers)

    assert answer.status_code == 422, answer.text
    assert "ud800" not in answer.text


def test_a_password_that_is_too_short_is_refused(server: LiveServer) -> None:
    answer = server.post("/v1/auth/password", new_password="short")

    assert answer.status_code == 422
    assert [fault["msg"] for fault in answer.json()["detail"]] == [
        "a password has 12 to 256 characters"
    ]
    assert "short" not in answer.text


def test_a_page_of_another_site_cannot_log_a_browser_in(server: LiveServer) -> None:
    body = json.dumps({"api_key": server.key}).encode()

    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = httpx2.post(
            f"{server.url}/v1/auth/session", content=body, headers={"content-type": kind}
        )

        assert answer.status_code == 422
        assert "set-cookie" not in answer.headers


def test_a_body_that_is_too_large_is_refused(server: LiveServer) -> None:
    answer = httpx2.post(f"{server.url}/v1/auth/token", json={"email": "x" * 20_000})

    assert answer.status_code == 413


def test_a_number_that_no_reader_takes_is_a_bad_request(server: LiveServer) -> None:
    body = b'{"expires_in": %s}' % (b"9" * 5_000)
    headers = {"content-type": "application/json"}

    answer = server.client.post("/v1/auth/token", content=body, headers=headers)

    assert answer.status_code == 400
    assert "detail" in answer.json()
    assert "There is no" not in answer.text


def test_guessing_is_429_and_says_when_to_come_back(server: LiveServer) -> None:
    bob = make_user(server, "guessed@example.org")
    guesses = [
        httpx2.post(f"{server.url}/v1/auth/token", json=bob | {"password": f"guess {n}"})
        for n in range(5)
    ]

    refused = httpx2.post(f"{server.url}/v1/auth/token", json=bob)

    assert [guess.status_code for guess in guesses] == [401] * 5
    assert refused.status_code == 429
    assert 250 < int(refused.headers["retry-after"]) <= 300


def test_no_line_of_the_log_holds_a_password_or_a_token(
    server: LiveServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    cleo = make_user(server, "logged@example.org")

    pair = log_in(server, **cleo)
    renewed = httpx2.post(
        f"{server.url}/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]}
    )
    httpx2.post(f"{server.url}/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]})

    printed = capfd.readouterr()
    written = caplog.text + printed.out + printed.err
    assert "/v1/auth/refresh" in written
    for secret in (PASSWORD, pair["access_token"], pair["refresh_token"]):
        assert secret not in written
    assert renewed.json()["refresh_token"] not in written


def test_neither_are_they_in_the_database(server: LiveServer) -> None:
    dora = make_user(server, "stored@example.org")
    pair = log_in(server, **dora)

    files = [
        path for path in server.settings.data_dir.iterdir() if path.name.startswith("galley.db")
    ]
    stored = b"".join(path.read_bytes() for path in files)

    assert b"stored@example.org" in stored
    for secret in (PASSWORD, pair["access_token"], pair["refresh_token"]):
        assert secret.encode() not in stored
