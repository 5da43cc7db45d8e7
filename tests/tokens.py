"""Tokens as others would make them: right ones, and every kind of wrong."""

import base64
import json
from datetime import timedelta
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, RSAKey

from galley.db.tables import new_id, utc_now

RSA = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "second", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "curve", "use": "sig"})


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token of ours; None takes one away."""
    now = utc_now()
    found: dict[str, Any] = {
        "iss": "galley",
        "aud": "galley",
        "sub": new_id(),
        "sid": new_id(),
        "jti": new_id(),
        "iat": now.timestamp(),
        "exp": (now + timedelta(minutes=15)).timestamp(),
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def sign(found: dict[str, Any], key: Key, alg: str = "HS256", **header: Any) -> str:
    """Sign `found`, with whatever else the header is to say."""
    return jws.serialize_compact({"alg": alg, **header}, json.dumps(found), key, [alg])


def by_hand(header: Any, payload: Any, signature: bytes = b"") -> str:
    """Write a token that no library would write."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def payload_of(token: str) -> dict[str, Any]:
    """Read what `token` claims, as anybody can."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def with_payload(token: str, **changes: Any) -> str:
    """Change what `token` claims, and keep its signature."""
    header, _, signature = token.split(".")
    changed = json.dumps(payload_of(token) | changes).encode()
    return f"{header}.{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{signature}"


def key_set(*keys: Key) -> str:
    """What an issuer publishes."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


def forgeries(secret: bytes, good: dict[str, Any]) -> dict[str, str]:
    """Every bad token that might be taken for one with the claims `good`, by what is wrong."""
    key, stranger = (
        OctKey.import_key(secret),
        OctKey.import_key(b"another server's secret, no less"),
    )
    token, now = sign(good, key), utc_now().timestamp()
    header = {"typ": "JWT", "alg": "HS256"}
    changed: dict[str, dict[str, Any]] = {
        "expired": {"iat": now - 1000, "exp": now - 11},
        "not yet valid": {"nbf": now + 60},
        "issued in the future": {"iat": now + 60},
        "wrong issuer": {"iss": "https://evil.example"},
        "issuers": {"iss": ["galley"]},
        "wrong audience": {"aud": "someone else"},
        "exp as text": {"exp": "tomorrow"},
        "exp as true": {"exp": True},
        "subject is a number": {"sub": 1},
        "subject is sql": {"sub": "' OR 1=1 --"},
        "login is sql": {"sid": "' OR 1=1 --"},
        "login of another": {"sid": new_id()},
        "subject of another": {"sub": new_id()},
        **{
            f"no {name}": {name: None} for name in ("exp", "iat", "sub", "iss", "aud", "jti", "sid")
        },
    }
    return {
        **{what: sign(_less(good | found), key) for what, found in changed.items()},
        "alg none": by_hand({"alg": "none"}, good),
        "alg None": by_hand({"alg": "None"}, good),
        "alg none, signed": f"{by_hand({'alg': 'none'}, good)}{token.rpartition('.')[2]}",
        "no alg": by_hand({"typ": "JWT"}, good),
        "wrong alg of the same secret": sign(good, key, "HS384"),
        "signed with a key pair": sign(good, RSA, "RS256"),
        "another server's": sign(good, stranger),
        "no signature": token.rpartition(".")[0] + ".",
        "cut": token[:-1],
        "tampered tier": with_payload(token, tier="enterprise"),
        "tampered scopes": with_payload(token, scopes=["admin:*"]),
        "tampered subject": with_payload(token, sub=new_id()),
        "critical": sign(good, key, crit=["b64"], b64=True),
        "crit is a number": by_hand(header | {"crit": 1}, good),
        "kid is a path": by_hand(header | {"kid": "../../../../dev/null"}, good),
        "kid is a url": by_hand(header | {"kid": "http://127.0.0.1:1/"}, good),
        "kid is a list": by_hand(header | {"kid": ["first"]}, good),
        "kid is huge": by_hand(header | {"kid": "k" * 10_000}, good),
        "header is a list": by_hand(["alg", "kid"], good),
        "payload is a list": by_hand(header, ["iss"]),
        "payload is deep": f"{token.partition('.')[0]}.{_deep()}.{token.rpartition('.')[2]}",
        "huge": by_hand(header, good | {"more": "x" * 40_000}),
        "five parts": f"{token}.AAAA.AAAA",
        "no base64": "eyJ.!!!.###",
        "empty parts": "ey..",
    }


def _less(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}


def _deep() -> str:
    return base64.urlsafe_b64encode(b"[" * 6_000 + b"]" * 6_000).rstrip(b"=").decode()
