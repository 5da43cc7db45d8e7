"""What an ordinary route may ask for, by type."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from galley.core.caller import Caller
from galley.core.errors import AuthenticationError, PermissionDeniedError
from galley.routers.cookies import ACCESS, token_of
from galley.runtime import Runtime

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="api_key",
    description="Your `gk_...` key, or an access token from `POST /v1/auth/token`.",
)


def credentials(scope: Scope) -> str:
    """Return the key or token a request came with.

    It is a bearer token, Anthropic's `x-api-key`, or else a session's cookie.

    Raises:
        AuthenticationError: it came with none, or an empty one.
        PermissionDeniedError: it came with a cookie alone, and without the CSRF token it needs.
    """
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return _given(value[7:].strip().decode("latin-1"))
        if name == b"x-api-key":
            return _given(value.decode("latin-1"))
    return _given(token_of(scope, ACCESS))


def _given(credential: str | None) -> str:
    if credential:
        return credential
    # An empty one comes from a variable that is not set.
    raise AuthenticationError(
        "No API key. Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`.",
        code="missing_api_key",
    )


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


RuntimeDep = Annotated[Runtime, Depends(_runtime)]


async def _caller(
    request: Request,
    runtime: RuntimeDep,
    _declared: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Caller:
    return await runtime.accounts.authenticate(credentials(request.scope))


CallerDep = Annotated[Caller, Depends(_caller)]

ANY_CALLER = "any caller"
"""The guard of a route that asks who it is, and lets everyone do it."""


@dataclass(frozen=True, slots=True)
class _Guard:
    scope: str

    async def __call__(self, caller: CallerDep) -> Caller:
        permit(caller, self.scope)
        return caller


def permit(caller: Caller, scope: str) -> None:
    """Let `caller` go on.

    Raises:
        PermissionDeniedError: they lack `scope`.
    """
    if not caller.may(scope):
        raise PermissionDeniedError(
            f"This needs the scope `{scope}`, which the key or its owner lacks.",
            code="missing_scope",
        )


def require(scope: str) -> Any:
    """Return the dependency that lets in whoever has `scope`; it gives the `Caller`."""
    return Depends(_Guard(scope))


ChatCaller = Annotated[Caller, require("chat")]
FilesCaller = Annotated[Caller, require("files")]
JobsCaller = Annotated[Caller, require("jobs")]
DocumentsCaller = Annotated[Caller, require("documents")]
UsageCaller = Annotated[Caller, require("usage")]
KeysCaller = Annotated[Caller, require("keys")]
UsersAdmin = Annotated[Caller, require("admin:users")]
TiersAdmin = Annotated[Caller, require("admin:tiers")]
PricesAdmin = Annotated[Caller, require("admin:prices")]
ModelsAdmin = Annotated[Caller, require("admin:models")]
UsageAdmin = Annotated[Caller, require("admin:usage")]
AuditAdmin = Annotated[Caller, require("admin:audit")]


def guard_of(route: Any) -> str | None:
    """Name the scope that an ordinary route asks for, or `ANY_CALLER`; None lets anybody in."""
    dependant: Dependant | None = getattr(route, "dependant", None)
    return None if dependant is None else _guard(dependant)


def _guard(dependant: Dependant) -> str | None:
    if isinstance(dependant.call, _Guard):
        return dependant.call.scope
    if dependant.call is _caller:
        return ANY_CALLER
    guards = [found for part in dependant.dependencies if (found := _guard(part)) is not None]
    return next((guard for guard in guards if guard != ANY_CALLER), guards[0] if guards else None)


async def admit(request: Request, guard: str) -> Caller:
    """Check `guard` ahead of the route's own dependencies.

    Raises:
        AuthenticationError: nobody we know asks.
        PermissionDeniedError: they lack the scope.
    """
    caller = await _caller(request, _runtime(request), None)
    if guard != ANY_CALLER:
        permit(caller, guard)
    return caller
