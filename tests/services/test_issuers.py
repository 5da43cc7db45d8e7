"""Tokens of other issuers, whose keys come from a real server on loopback."""

import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from joserfc.jwk import ECKey, Key, OctKey

from galley.core.errors import AuthenticationError, OverloadedError
from galley.core.issuers import IssuerSettings
from galley.core.settings import SettingsError
from galley.db.tables import utc_now
from galley.services.issuers import Issuers
from tests.loopback import HANG, Script, http, scripted_server
from tests.tokens import EC, OTHER_RSA, RSA, by_hand, claims, key_set, sign, with_payload

pytestmark = pytest.mark.anyio

ISSUER, AUDIENCE = "https://login.example.org/", "galley-server"
NOW = utc_now()
THEIRS: dict[str, Any] = {
    "iat": NOW.timestamp(), "exp": NOW.timestamp() + 900,
    "iss": ISSUER, "aud": AUDIENCE, "sub": "u1", "jti": None, "sid": None,
    "email": "Ada@Example.org", "email_verified": True, "name": "Ada",
}  # fmt: skip


class Clock:
    """Time that passes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[Script]:
    """An issuer with one key, then with two, then with one again."""
    sets = [key_set(RSA), key_set(RSA, OTHER_RSA), key_set(OTHER_RSA)]
    with scripted_server(*map(http, sets)) as script:
        yield script


def issuers_at(url: str, clock: Clock, **changes: Any) -> Issuers:
    given: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": f"{url}/keys"}
    return Issuers({"example": IssuerSettings(**(given | changes))}, clock=clock)


def token(key: Key = RSA, alg: str = "RS256", *, kid: str | None = "first", **changes: Any) -> str:
    return sign(claims(**(THEIRS | changes)), key, alg, **({"kid": kid} if kid else {}))


async def test_a_token_of_a_known_issuer_says_who_it_is(server: Script, clock: Clock):
    issuers = issuers_at(server.base_url, clock)

    guest = await issuers.verify(token(), now=NOW)

    assert issuers.know(token())
    assert (guest.email, guest.name, guest.tier) == ("ada@example.org", "Ada", None)
    assert not guest.may_join
    assert guest.expires_at > guest.issued_at


async def test_tokens_of_anyone_else_are_not_claimed(server: Script, clock: Clock):
    issuers = issuers_at(server.base_url, clock)

    assert not issuers.know(token(iss="https://evil.example"))
    assert not issuers.know(token(iss="galley"))
    assert server.requests == []


async def test_keys_are_fetched_once_in_ten_minutes(server: Script, clock: Clock):
    issuers = issuers_at(server.base_url, clock)

    for _ in range(3):
        await issuers.verify(token(), now=NOW)
    clock.now += 599
    await issuers.verify(token(), now=NOW)
    assert len(server.requests) == 1
    clock.now += 2
    await issuers.verify(token(), now=NOW)

    assert len(server.requests) == 2
    assert server.requests[0].startswith(b"GET /keys HTTP/1.1")


async def test_an_unknown_key_is_looked_for_at_most_every_thirty_seconds(
    server: Script, clock: Clock
):
    issuers = issuers_at(server.base_url, clock)
    await issuers.verify(token(), now=NOW)
    new = token(OTHER_RSA, kid="second")

    for _ in range(3):
        with pytest.raises(AuthenticationError):
            await issuers.verify(new, now=NOW)
    assert len(server.requests) == 1
    clock.now += 31
    await issuers.verify(new, now=NOW)

    assert len(server.requests) == 2


async def test_a_key_that_was_withdrawn_opens_nothing_any_more(server: Script, clock: Clock):
    issuers = issuers_at(server.base_url, clock)
    for _ in range(2):
        await issuers.verify(token(), now=NOW)
        clock.now += 601

    with pytest.raises(AuthenticationError):
        await issuers.verify(token(), now=NOW)


async def test_a_token_that_names_no_key_is_tried_with_each(clock: Clock):
    with scripted_server(http(key_set(RSA, OTHER_RSA))) as server:
        issuers = issuers_at(server.base_url, clock)

        assert await issuers.verify(token(OTHER_RSA, kid=None), now=NOW)


async def test_elliptic_curves_are_known_too(clock: Clock):
    with scripted_server(http(key_set(RSA, EC))) as server:
        issuers = issuers_at(server.base_url, clock, algorithms=("ES256",))

        assert await issuers.verify(token(EC, "ES256", kid="curve"), now=NOW)
        with pytest.raises(AuthenticationError):
            await issuers.verify(token(), now=NOW)


def confused(key: bytes) -> str:
    """Sign with a public key as if it were a shared secret; no library would."""
    header, payload = {"alg": "HS256", "kid": "first"}, claims(**THEIRS)
    head = by_hand(header, payload).rpartition(".")[0]
    return by_hand(header, payload, hmac.digest(key, head.encode(), "sha256"))


FORGERIES = {
    "hs256 with the public key": confused(RSA.as_pem(private=False)),
    "hs256 with the key set": confused(key_set(RSA).encode()),
    "alg none": by_hand({"alg": "none", "kid": "first"}, claims(**THEIRS)),
    "another algorithm of the same key": token(alg="PS256"),
    "a stranger's key under a known name": token(OTHER_RSA, kid="first"),
    "tampered": with_payload(token(), email="root@example.org"),
    "expired": token(exp=NOW.timestamp() - 11),
    "not yet valid": token(nbf=NOW.timestamp() + 60),
    "wrong audience": token(aud="another server"),
    "no audience": token(aud=None),
    "no expiry": token(exp=None),
    "endless": token(exp=float("1e400")),
    "no subject": token(sub=None),
    "critical": sign(claims(**THEIRS), RSA, "RS256", kid="first", crit=["b64"], b64=True),
    "no address": token(email=None),
    "address not verified": token(email_verified=False),
    "address verified in words": token(email_verified="true"),
    "nothing said of the address": token(email_verified=None),
    "address with a line break": token(email="ada@example.org\nbcc: x"),
    "address is a list": token(email=["ada@example.org"]),
    "address is a surrogate": token(email="\ud800@example.org"),
    "address is huge": token(email=f"{'a' * 300}@example.org"),
}


@pytest.mark.parametrize("what", FORGERIES)
async def test_a_token_that_is_not_theirs_to_the_letter_is_refused(
    server: Script, clock: Clock, what: str
):
    issuers = issuers_at(server.base_url, clock)

    with pytest.raises(AuthenticationError):
        await issuers.verify(FORGERIES[what], now=NOW)

    assert len(server.requests) <= 1


@pytest.mark.parametrize("header", ["jku", "x5u"])
async def test_a_token_cannot_say_where_its_keys_are(server: Script, clock: Clock, header: str):
    issuers = issuers_at(server.base_url, clock)

    with scripted_server(http(key_set(OTHER_RSA))) as evil:
        for kid in ("first", f"{evil.base_url}/keys", "../../keys"):
            forged = sign(
                claims(**THEIRS), OTHER_RSA, "RS256", kid=kid, **{header: f"{evil.base_url}/keys"}
            )
            with pytest.raises(AuthenticationError):
                await issuers.verify(forged, now=NOW)

    assert evil.requests == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        http("no", status="500 Oops"),
        http("", status="302 Found", location="http://127.0.0.1:1/keys"),
        http("{"),
        http("[]"),
        http('{"keys": {}}'),
        http(json.dumps({"keys": [], "padding": "x" * 1_100_000})),
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
async def test_an_issuer_that_gives_no_keys_is_503_and_is_asked_again_after_a_while(
    clock: Clock, answer: bytes
):
    with scripted_server(answer, http(key_set(RSA))) as server:
        issuers = issuers_at(server.base_url, clock)

        with pytest.raises(OverloadedError):
            await issuers.verify(token(), now=NOW)
        with pytest.raises(OverloadedError) as refusal:
            await issuers.verify(token(), now=NOW)
        assert len(server.requests) == 1
        assert refusal.value.code == "issuer_unavailable"
        assert refusal.value.retry_after == 30
        clock.now += 31

        assert await issuers.verify(token(), now=NOW)


async def test_an_issuer_that_says_nothing_is_not_waited_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("galley.services.issuers.FETCH_TIMEOUT_S", 0.2)
    with scripted_server(HANG) as server:
        issuers = issuers_at(server.base_url, clock)

        with pytest.raises(OverloadedError):
            await issuers.verify(token(), now=NOW)

        assert server.hung_up.wait(5)


async def test_a_token_cannot_bring_its_keys_along(clock: Clock):
    stranger = ECKey.generate_key("P-256")
    with scripted_server(http(key_set(EC))) as server:
        issuers = issuers_at(server.base_url, clock, algorithms=("ES256",))
        forged = sign(claims(**THEIRS), stranger, "ES256", jwk=stranger.as_dict(private=False))

        with pytest.raises(AuthenticationError):
            await issuers.verify(forged, now=NOW)


async def test_keys_that_are_weak_secret_or_broken_are_left_out(clock: Clock):
    shared = OctKey.import_key(b"0123456789abcdef0123456789abcdef", {"kid": "first"})
    keys: list[Any] = [
        shared.as_dict(),
        {"kty": "RSA", "kid": "first", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "kid": "first", "crv": "P-256", "x": "!", "y": 1},
        {"kty": "who knows"},
        "nonsense",
        RSA.as_dict(private=False) | {"use": "enc"},
        EC.as_dict(private=False),
    ]
    with scripted_server(http(json.dumps({"keys": keys}))) as server:
        issuers = issuers_at(server.base_url, clock, algorithms=("ES256", "RS256"))

        assert await issuers.verify(token(EC, "ES256", kid="curve"), now=NOW)
        with pytest.raises(AuthenticationError):
            await issuers.verify(token(), now=NOW)


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        ("gold", "enterprise"),
        (["silver", "gold"], "enterprise"),
        (["silver"], "premium"),
        ("copper", "free"),
        (None, "free"),
        ({"gold": True}, "free"),
    ],
)
async def test_the_operators_mapping_decides_the_tier(
    server: Script, clock: Clock, given: Any, tier: str
):
    issuers = issuers_at(
        server.base_url, clock, tier_claim="groups",
        tiers={"gold": "enterprise", "silver": "premium"},
    )  # fmt: skip

    guest = await issuers.verify(token(groups=given, tier="enterprise"), now=NOW)

    assert guest.tier == tier


async def test_an_address_in_another_claim_is_taken_at_the_operators_word(
    server: Script, clock: Clock
):
    issuers = issuers_at(server.base_url, clock, email_claim="upn")

    guest = await issuers.verify(
        token(email=None, email_verified=None, upn="ada@example.org"), now=NOW
    )

    assert guest.email == "ada@example.org"
    with pytest.raises(AuthenticationError):
        await issuers.verify(token(email_verified=False, upn="ada@example.org"), now=NOW)


async def test_a_token_is_theirs_for_as_long_as_it_says(server: Script, clock: Clock):
    issuers = issuers_at(server.base_url, clock)

    with pytest.raises(AuthenticationError) as refusal:
        await issuers.verify(token(), now=NOW + timedelta(minutes=16))

    assert refusal.value.code == "token_expired"


async def test_two_issuers_of_one_name_are_refused(clock: Clock):
    one = IssuerSettings(issuer=ISSUER, audience="a", jwks_url="https://example.org/keys")

    with pytest.raises(SettingsError):
        Issuers({"one": one, "two": one}, clock=clock)
