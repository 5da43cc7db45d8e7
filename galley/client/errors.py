"""Every way a request can fail, for programs that use the client.

APIError
├── APIConnectionError           no server, or the connection broke
│   └── APITimeoutError          no answer in time
├── BadRequestError         400
├── AuthenticationError     401
├── PermissionDeniedError   403
├── NotFoundError           404
├── ConflictError           409
├── RequestTooLargeError    413
├── UnprocessableError      422
├── RateLimitError          429  `retry_after` says when to come back
└── ServerError             5xx  `retry_after` says when, if waiting helps
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import httpx2
import orjson


class APIError(Exception):
    """A request that was not answered.

    Args:
        message: what is wrong and what to do next.
        status: HTTP status; None when there was no answer, or it broke off.
        code: stable and machine-readable, where the server names one.
        param: the request field at fault.
        request_id: names the request in the server's log and ledger.
        retry_after: seconds until it is worth trying again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class APIConnectionError(APIError):
    """No server answers, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """The server did not answer in time."""


class BadRequestError(APIError):
    """The request is malformed, or asks for what the model cannot do."""


class AuthenticationError(APIError):
    """No API key, or one that opens nothing."""


class PermissionDeniedError(APIError):
    """A good key, but not for this."""


class NotFoundError(APIError):
    """No such model or route for this key."""


class ConflictError(APIError):
    """Collides with what is already there."""


class RequestTooLargeError(APIError):
    """More bytes than this route takes."""


class UnprocessableError(APIError):
    """A field does not fit; the message names it."""


class RateLimitError(APIError):
    """A limit is used up."""


class ServerError(APIError):
    """The server or a model failed, is full, or took too long."""


_BY_STATUS: Mapping[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableError,
    429: RateLimitError,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> APIError:
    """Make the error that an answer of `status` stands for, in whichever dialect it came."""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
    said = said_no(_parsed(body)) or APIError(
        f"The server answered {status} without saying why; is this a Galley server?"
    )
    return kind(
        said.message,
        status=status,
        code=said.code,
        param=said.param,
        request_id=headers.get("request-id"),
        retry_after=_seconds(headers.get("retry-after")),
    )


def said_no(body: Any) -> APIError | None:
    """Read an error out of parsed JSON; None if it is none.

    It may be OpenAI's, Anthropic's, a native one, or the health of a server that is not ready.
    """
    if not isinstance(body, dict):
        return None
    found = cast("dict[str, Any]", body)
    if isinstance(error := found.get("error"), dict):
        named = cast("dict[str, Any]", error)
        return APIError(str(named.get("message")), code=named.get("code"), param=named.get("param"))
    if "detail" in found:
        return APIError(_detail(found["detail"]), code=found.get("code"))
    if isinstance(parts := found.get("parts"), dict):
        states = cast("dict[str, Any]", parts).items()
        said = ", ".join(f"{part} ({state})" for part, state in states if state != "ok")
        return APIError(f"Not ready: {said}.")
    return None


@contextmanager
def connection_errors(base_url: str) -> Generator[None]:
    """Turn the transport's errors into ours, each with the next step."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise APIConnectionError(
            f"No server answers at {base_url} ({error or 'timed out'}). Start one with "
            "`galley serve`, or name another: --server, GALLEY_BASE_URL or base_url=."
        ) from error
    except httpx2.TimeoutException as error:
        raise APITimeoutError(
            f"{base_url} did not answer in time. Ask for less, or wait longer with timeout=."
        ) from error
    except httpx2.RequestError as error:
        raise APIConnectionError(
            f"The connection to {base_url} broke before the answer was whole ({error}). Try again."
        ) from error


def unfinished() -> APIConnectionError:
    """Make the error of a stream that ended without its last event."""
    return APIConnectionError("The answer broke off before its end. Try again.")


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _detail(detail: Any) -> str:
    """FastAPI's list of validation errors as one line, or the text that it is."""
    if not isinstance(detail, list):
        return str(detail)
    return "; ".join(
        f"{'.'.join(str(part) for part in item.get('loc', ())[1:]) or 'body'}: {item.get('msg')}"
        for item in cast("list[dict[str, Any]]", detail)
    )


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:  # a date, as some proxies send it
        return None
