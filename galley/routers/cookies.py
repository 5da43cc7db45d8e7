"""Sessions of browsers: tokens in cookies, and the proof that a page of ours is asking.

A browser sends cookies along with whatever any page makes it ask for. So what changes anything
has to repeat the CSRF cookie in a header: other pages cannot read it.

Source: OWASP, Cross-Site Request Forgery Prevention Cheat Sheet, Double-Submit Cookie.
"""

import secrets
from typing import Literal

from starlette.responses import Response
from starlette.types import Scope

from galley.core.errors import PermissionDeniedError

ACCESS = "galley_session"
REFRESH = "galley_refresh"
CSRF = "galley_csrf"
CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def read_cookie(scope: Scope, name: str) -> str | None:
    """Return a cookie of the request."""
    prefix = f"{name}="
    for header, value in scope["headers"]:
        if header == b"cookie":
            for part in value.decode("latin-1").split(";"):
                if part.strip().startswith(prefix):
                    return part.strip().removeprefix(prefix)
    return None


def token_of(scope: Scope, name: Literal["galley_session", "galley_refresh"]) -> str | None:
    """Return the token that a cookie holds, if a page of ours sent it.

    Raises:
        PermissionDeniedError: the request may change something, and does not repeat the CSRF token.
    """
    token = read_cookie(scope, name)
    if token and scope["method"] not in _SAFE:
        _check_csrf(scope)
    return token or None


def set_cookies(
    response: Response, scope: Scope, access: tuple[str, int], refresh: tuple[str, int]
) -> str:
    """Give the browser its tokens, each with the seconds that it is good.

    Returns:
        The CSRF token that goes with them.
    """
    csrf = secrets.token_urlsafe(32)
    for name, value, seconds in ((ACCESS, *access), (REFRESH, *refresh), (CSRF, csrf, refresh[1])):
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            httponly=name != CSRF,
            secure=scope["scheme"] == "https",
            samesite="lax",
        )
    return csrf


def clear_cookies(response: Response) -> None:
    """Take the tokens away from the browser."""
    for name in (ACCESS, REFRESH, CSRF):
        response.delete_cookie(name, httponly=name != CSRF, samesite="lax")


def _check_csrf(scope: Scope) -> None:
    kept = read_cookie(scope, CSRF) or ""
    sent = next((v for n, v in scope["headers"] if n == CSRF_HEADER.encode()), b"")
    if not kept or not secrets.compare_digest(kept.encode(), sent):
        raise PermissionDeniedError(
            f"A session in cookies needs the header `{CSRF_HEADER}`, with the value of the cookie"
            f" `{CSRF}`.",
            code="csrf_failed",
        )
