"""Tokens that other identity providers sign, checked with the keys that they publish.

Keys come from the address that the operator set, and from nowhere else: whatever a token says of
keys and addresses (`jku`, `x5u`, `jwk`, `kid`) is at most a name to look up among them.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from galley.core.errors import AuthenticationError, OverloadedError
from galley.core.issuers import IssuerSettings
from galley.core.settings import SettingsError
from galley.services.tokens import invalid_token, peek, verify

if TYPE_CHECKING:
    from joserfc.jwk import Key

log = structlog.get_logger(__name__)

KEYS_GOOD_S = 600.0
BETWEEN_FETCHES_S = 30.0
FETCH_TIMEOUT_S = 5.0
LARGEST = 1_000_000  # bytes of a key set
MOST_KEYS = 100
_FAR = 1e11  # the year 5138; JSON has no bounds for numbers
_RSA_2048 = 342  # characters of its modulus; shorter ones are too weak to trust
_ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")


@dataclass(frozen=True, slots=True)
class Guest:
    """Who another issuer says this is; times in Unix seconds.

    Args:
        tier: as its claims and the operator's mapping have it; None where they decide nothing.
    """

    email: str
    name: str
    tier: str | None
    may_join: bool
    issued_at: float
    expires_at: float


class Issuers:
    """Knows the issuers that an operator named.

    Args:
        clock: seconds, for the age of keys.
    Raises:
        SettingsError: two of them are the same issuer.
    """

    def __init__(
        self, named: Mapping[str, IssuerSettings], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._known = {one.issuer: (one, IssuerKeys(one.jwks_url, clock)) for one in named.values()}
        if len(self._known) < len(named):
            raise SettingsError("Two of the issuers have the same `issuer`.")

    def know(self, token: str) -> bool:
        """Tell whether `token` claims to come from one of them.

        Raises:
            AuthenticationError: it is no token.
        """
        return peek(token).issuer in self._known

    async def verify(self, token: str, *, now: datetime) -> Guest:
        """Read a token of one of them.

        Raises:
            AuthenticationError: it is not signed by one, has expired, or names no address.
            OverloadedError: the issuer's keys cannot be fetched.
        """
        claimed = peek(token)
        issuer, keys = self._known[claimed.issuer]
        refusal = invalid_token()
        for key in await keys.find(claimed.key_id):
            try:
                claims = verify(token, key, issuer.algorithms, issuer.issuer, issuer.audience, now)
            except AuthenticationError as error:
                refusal = error
            else:
                return _guest(claims, issuer)
        raise refusal


class IssuerKeys:
    """The public keys at `url`, remembered for ten minutes."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._keys: list[Key] = []
        self._good_until = self._next_fetch = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> list["Key"]:
        """Return the keys of that name; all of them for a token that names none.

        Raises:
            OverloadedError: they are not known and cannot be fetched.
        """
        if not self._has(key_id):
            async with self._fetching:
                if not self._has(key_id) and self._clock() >= self._next_fetch:
                    await self._refresh()
        if not self._fresh():
            raise OverloadedError(
                "The issuer of this token does not answer.",
                code="issuer_unavailable",
                retry_after=max(1.0, self._next_fetch - self._clock()),
            )
        return self._named(key_id)

    def _fresh(self) -> bool:
        return self._clock() < self._good_until

    def _has(self, key_id: str | None) -> bool:
        return self._fresh() and bool(self._named(key_id))

    def _named(self, key_id: str | None) -> list["Key"]:
        return [key for key in self._keys if key_id is None or key.kid == key_id]

    async def _refresh(self) -> None:
        self._next_fetch = self._clock() + BETWEEN_FETCHES_S
        try:
            self._keys = _read_keys(await _fetch(self._url))
        except (OSError, ValueError) as error:
            log.warning("issuer_keys_not_fetched", url=self._url, error=repr(error))
        else:
            self._good_until = self._clock() + KEYS_GOOD_S


async def _fetch(url: str) -> bytes:
    """Read `url`, following nothing.

    Raises:
        OSError: it cannot be reached.
        ValueError: it answers with anything but 200, or with too much.
    """
    import aiohttp  # with all that it needs, seven megabytes

    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    body = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            async for part in answer.content.iter_any():
                body += part
                if len(body) > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes")
    except aiohttp.ClientError as error:
        raise ConnectionError(repr(error)) from error
    return bytes(body)


def _read_keys(body: bytes) -> list["Key"]:
    """Read a key set, without the keys that sign nothing or are of no kind we know.

    Source: RFC 7517, JSON Web Key, section 5.

    Raises:
        ValueError: it is none.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    found = json.loads(body)
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("not a set of keys")
    keys: list[Key] = []
    for data in found["keys"][:MOST_KEYS]:
        if _is_usable(data):
            with suppress(JoseError, ValueError, TypeError, KeyError):
                keys.append(JWKRegistry.import_key(data))
    return keys


def _is_usable(data: Any) -> bool:
    if not isinstance(data, dict) or data.get("use", "sig") != "sig":
        return False
    strong = data.get("kty") == "RSA" and len(str(data.get("n", ""))) >= _RSA_2048
    return strong or data.get("kty") in ("EC", "OKP")


def _guest(claims: Mapping[str, Any], issuer: IssuerSettings) -> Guest:
    """Say who this is.

    An `email` counts when the issuer has verified it. Another claim that holds the address is
    the operator's choice, and counts unless the issuer says that it is not verified.
    """
    email, name = claims.get(issuer.email_claim), claims.get("name")
    verified = claims.get("email_verified", issuer.email_claim != "email")
    if verified is not True or not _is_address(email):
        raise AuthenticationError(
            "The token names no verified address.", code="no_verified_address"
        )
    return Guest(
        email=str(email).lower(),
        name=name if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() else "",
        tier=_tier(claims, issuer),
        may_join=issuer.create_users,
        issued_at=max(claims["iat"], 0),
        expires_at=min(claims["exp"], _FAR),
    )


def _is_address(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(_ADDRESS.fullmatch(value))


def _tier(claims: Mapping[str, Any], issuer: IssuerSettings) -> str | None:
    if issuer.tier_claim is None:
        return None
    given = claims.get(issuer.tier_claim)
    values = given if isinstance(given, list) else [given]
    return next((tier for value, tier in issuer.tiers.items() if value in values), "free")
