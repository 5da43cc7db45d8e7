"""Access tokens: signed, short-lived, and silent on what their owner may do.

A token names a user and a login. Whether the login still stands, and the user's tier and scopes,
the database says, each time the token is not fresh in memory.

What signs and reads them takes nine megabytes, which a server without tokens does not need: it is
imported with the first one.
"""

import json
import os
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr

from galley.core.errors import AuthenticationError
from galley.core.issuers import OWN_ISSUER
from galley.core.settings import SettingsError
from galley.db.tables import new_id

if TYPE_CHECKING:
    from joserfc.jwk import Key

ALGORITHMS = ("HS256",)
LEEWAY_S = 10
LONGEST = 16_384
"""Characters of a token, signature and all."""

_SECRET_BYTES = 32
_REQUIRED = ("exp", "iat", "sub", "iss", "aud")
_WELL_KNOWN = frozenset(
    {
        "your-256-bit-secret",
        "a-string-secret-at-least-256-bits-long",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        "change-me-change-me-change-me-change-me",
        "changeme-changeme-changeme-changeme",
    }
)
"""From tutorials and examples: everybody has them."""


class AccessToken(NamedTuple):
    """What a good token of ours says; times in Unix seconds."""

    user_id: str
    family: str
    issued_at: float
    expires_at: float


class Tokens:
    """Makes access tokens and knows its own again.

    Args:
        lifetime: how long they are good.
    """

    def __init__(self, secret: bytes, lifetime: timedelta) -> None:
        self._secret = secret
        self.lifetime = lifetime

    @cached_property
    def _key(self) -> "Key":
        from joserfc.jwk import OctKey

        return OctKey.import_key(self._secret)

    def make(self, *, user_id: str, family: str, now: datetime) -> str:
        """Sign a token for the login `family` of `user_id`."""
        from joserfc import jwt

        claims: dict[str, Any] = {
            "iss": OWN_ISSUER,
            "aud": OWN_ISSUER,
            "sub": user_id,
            "sid": family,
            "jti": new_id(),
            "iat": now.timestamp(),
            "exp": (now + self.lifetime).timestamp(),
        }
        return jwt.encode({"alg": ALGORITHMS[0]}, claims, self._key, ALGORITHMS)

    def verify(self, token: str, *, now: datetime) -> AccessToken:
        """Read a token of ours.

        Raises:
            AuthenticationError: it is none, or it has expired.
        """
        required = ("jti", "sid")
        claims = verify(token, self._key, ALGORITHMS, OWN_ISSUER, OWN_ISSUER, now, required)
        return AccessToken(claims["sub"], str(claims["sid"]), claims["iat"], claims["exp"])


def verify(
    token: str,
    key: "Key",
    algorithms: tuple[str, ...],
    issuer: str,
    audience: str,
    now: datetime,
    required: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the claims of a token that `key` signed, by `issuer` for `audience`.

    Source: RFC 8725, JSON Web Token Best Current Practices, sections 3.1 to 3.9.

    Args:
        required: claims it must have beside those that every token has.
    Raises:
        AuthenticationError: it is none, has expired, or asks for what we do not do (`crit`).
    """
    from joserfc import jws, jwt
    from joserfc.errors import ExpiredTokenError, JoseError

    expected: dict[str, Any] = {name: {"essential": True} for name in (*_REQUIRED, *required)}
    expected["iss"] |= {"value": issuer}
    expected["aud"] |= {"value": audience}
    peek(token)
    registry = jws.JWSRegistry(algorithms=algorithms, strict_check_header=False)
    rules = jwt.JWTClaimsRegistry(now=int(now.timestamp()), leeway=LEEWAY_S, **expected)
    try:
        claims = jwt.decode(token, key, algorithms, registry).claims
        rules.validate(claims)
    except ExpiredTokenError:
        raise AuthenticationError("The token has expired.", code="token_expired") from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise invalid_token() from None
    return claims


class Unverified(NamedTuple):
    """What a token says of itself; good for finding the key to check it with."""

    issuer: str
    key_id: str | None


def peek(token: str) -> Unverified:
    """Read what `token` says of itself, and believe nothing of it.

    Raises:
        AuthenticationError: it is no token, or asks for what we do not do (`crit`).
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    if len(token) > LONGEST:
        raise invalid_token()
    try:
        found = jws.extract_compact(token.encode())
        claims = json.loads(found.payload)
        header = found.headers()
        issuer, key_id = claims["iss"], header.get("kid")
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise invalid_token() from None
    if "crit" in header or not isinstance(issuer, str) or not isinstance(key_id, str | None):
        raise invalid_token()
    return Unverified(issuer, key_id)


def looks_like_token(credential: str) -> bool:
    """Tell a token, good or bad, from a key: no key has dots."""
    return "." in credential


def invalid_token() -> AuthenticationError:
    """Say no to a token, and not why."""
    return AuthenticationError(
        "Invalid token. Get a new one from `POST /v1/auth/token`.", code="invalid_token"
    )


def signing_secret(given: SecretStr | None, folder: Path) -> bytes:
    """Return the secret that signs tokens: `given`, or the one kept in `folder`.

    Raises:
        SettingsError: it is too short, known to everybody, or its file cannot be used.
    """
    if given is not None:
        secret = given.get_secret_value().encode()
        _check_secret(secret, "GALLEY_JWT_SECRET")
        return secret
    path = folder / "jwt_secret"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _write_secret(path)
        secret = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"The secret for tokens cannot be kept: {error}") from error
    _check_secret(secret, str(path))
    return secret


def _write_secret(path: Path) -> None:
    """Make the file whole at once: a second server may be starting as well."""
    made = path.with_name(f".{path.name}-{new_id()}")  # in containers, both may be process 1
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as writer:
        writer.write(os.urandom(_SECRET_BYTES))
    try:
        os.link(made, path)
    except FileExistsError:
        pass  # the other server was first, and its secret is ours too
    finally:
        made.unlink()


def _check_secret(secret: bytes, where: str) -> None:
    cure = "Unset it, or set what `openssl rand -hex 32` prints."
    if len(secret) < _SECRET_BYTES:
        raise SettingsError(f"{where} is shorter than {_SECRET_BYTES} bytes. {cure}")
    if len(set(secret)) < 8 or secret.decode("latin-1") in _WELL_KNOWN:
        raise SettingsError(f"{where} is a secret that everybody can guess. {cure}")
