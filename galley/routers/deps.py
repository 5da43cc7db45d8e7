"""What an ordinary route may ask for, by type."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from galley.core.caller import Caller
from galley.core.errors import AuthenticationError
from galley.runtime import Runtime

bearer = HTTPBearer(auto_error=False, scheme_name="api_key", description="Your `gk_...` key.")


def credentials(scope: Scope) -> str:
    """Return the key a request came with: a bearer token, or Anthropic's `x-api-key`.

    Raises:
        AuthenticationError: it came with none.
    """
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            return value.decode("latin-1")
    raise AuthenticationError(
        "No API key. Send it as `Authorization: Bearer <key>`.", code="missing_api_key"
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
