"""Logging in and out."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from galley.core.errors import AuthenticationError
from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.cookies import REFRESH, clear_cookies, set_cookies, token_of
from galley.routers.deps import CallerDep, RuntimeDep
from galley.routers.openapi import refusals
from galley.runtime import Runtime
from galley.schemas.auth import (
    Grant,
    LogoutRequest,
    PasswordChange,
    RefreshRequest,
    SessionReply,
    TokenReply,
)
from galley.services.logins import TokenPair

router = APIRouter(route_class=BodyRoute, tags=["auth"])

_NOT_KEPT = {"cache-control": "no-store"}  # RFC 6749, section 5.1


def _example(**value: Any) -> Any:
    return Body(openapi_examples={"example": {"value": value}})


GrantBody = Annotated[
    Grant,
    Body(
        openapi_examples={
            "password": {
                "value": {"email": "ada@example.org", "password": "correct horse battery"}
            },
            "key": {"value": {"api_key": "gk_..."}},
        }
    ),
]


@router.post(
    "/v1/auth/token", summary="Log in", responses=refusals(native, 401, 413, 422, 429, 500)
)
async def create_token(
    grant: GrantBody, request: Request, response: Response, runtime: RuntimeDep
) -> TokenReply:
    """Exchange a password or an API key for an access token and a refresh token."""
    pair = await _log_in(runtime, grant, request)
    response.headers.update(_NOT_KEPT)
    return _reply(pair)


@router.post(
    "/v1/auth/refresh", summary="Renew tokens", responses=refusals(native, 401, 413, 422, 500)
)
async def refresh_token(
    body: Annotated[RefreshRequest, _example(refresh_token="gr_...")],  # noqa: S106 - an example
    response: Response,
    runtime: RuntimeDep,
) -> TokenReply:
    """Exchange a refresh token for new tokens. It is good once; used again, its login ends."""
    pair = await runtime.logins.refresh(body.refresh_token.get_secret_value())
    response.headers.update(_NOT_KEPT)
    return _reply(pair)


@router.post(
    "/v1/auth/session",
    summary="Log in with cookies",
    responses=refusals(native, 401, 413, 422, 429, 500),
)
async def create_session(
    grant: GrantBody, request: Request, response: Response, runtime: RuntimeDep
) -> SessionReply:
    """Log in as a browser does: the tokens are kept in cookies that no script can read."""
    return _session(await _log_in(runtime, grant, request), request, response)


@router.put(
    "/v1/auth/session", summary="Renew a session", responses=refusals(native, 401, 403, 500)
)
async def renew_session(request: Request, response: Response, runtime: RuntimeDep) -> SessionReply:
    """Exchange the cookies of a session for new ones."""
    token = token_of(request.scope, REFRESH)
    if token is None:
        raise AuthenticationError("There is no session.", code="no_session")
    return _session(await runtime.logins.refresh(token), request, response)


@router.post(
    "/v1/auth/logout",
    summary="Log out",
    status_code=204,
    responses=refusals(native, 401, 403, 413, 422, 500),
)
async def log_out(
    body: Annotated[LogoutRequest, _example(refresh_token="gr_...")],  # noqa: S106 - an example
    request: Request,
    response: Response,
    runtime: RuntimeDep,
) -> None:
    """End a login: its tokens are good no more, and the cookies are gone."""
    given = body.refresh_token
    token = given.get_secret_value() if given else token_of(request.scope, REFRESH)
    if token is not None:
        await runtime.logins.end(token)
    clear_cookies(response)


@router.post(
    "/v1/auth/password",
    summary="Change your password",
    status_code=204,
    responses=refusals(native, 401, 403, 413, 422, 429, 500),
)
async def change_password(
    body: Annotated[
        PasswordChange,
        _example(old_password="correct horse battery", new_password="staple correct horse"),  # noqa: S106 - an example
    ],
    caller: CallerDep,
    request: Request,
    response: Response,
    runtime: RuntimeDep,
) -> None:
    """Set your own password. It ends every login of yours; keys go on working."""
    old = body.old_password
    await runtime.logins.change_password(
        caller,
        old=old.get_secret_value() if old else None,
        new=body.new_password.get_secret_value(),
        client=_client(request),
    )
    clear_cookies(response)


async def _log_in(runtime: Runtime, grant: Grant, request: Request) -> TokenPair:
    if grant.api_key is not None:
        return await runtime.logins.by_key(grant.api_key.get_secret_value())
    password = grant.password.get_secret_value() if grant.password else ""
    return await runtime.logins.by_password(grant.email or "", password, client=_client(request))


def _client(request: Request) -> str:
    """The address at the other end of the connection; headers may say what they like."""
    return request.client.host if request.client else ""


def _reply(pair: TokenPair) -> TokenReply:
    return TokenReply(
        access_token=pair.access_token,
        expires_in=pair.expires_in,
        refresh_token=pair.refresh_token,
        refresh_expires_in=pair.refresh_expires_in,
    )


def _session(pair: TokenPair, request: Request, response: Response) -> SessionReply:
    response.headers.update(_NOT_KEPT)
    csrf = set_cookies(
        response,
        request.scope,
        (pair.access_token, pair.expires_in),
        (pair.refresh_token, pair.refresh_expires_in),
    )
    return SessionReply(
        csrf_token=csrf, expires_in=pair.expires_in, refresh_expires_in=pair.refresh_expires_in
    )
