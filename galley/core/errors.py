"""Every way Galley says no.

GalleyError
├── BadRequestError          400  malformed, or asks for what this model cannot do
├── AuthenticationError      401  no key, or a key that opens nothing
├── PermissionDeniedError    403  a good key that may not do this
├── NotFoundError            404  absent, or absent for this caller: one answer for both
├── ConflictError            409  collides with what is already there
├── RequestTooLargeError     413  more bytes than this route takes
├── UnprocessableError       422  a native route's input does not fit its schema
├── RateLimitError           429  a limit is used up; `retry_after` says when to come back
├── CancelledError           499  the caller hung up before the answer was whole
├── InternalError            500  our fault; the log has the trace under the request's id
├── EngineError              502  a model failed
├── OverloadedError          503  full, or a model is not ready: `retry_after` says when
└── EngineTimeoutError       504  a model took longer than `REQUEST_TIMEOUT`

The status belongs to the class, never to the place that raises it.
"""

from typing import Any, ClassVar


class GalleyError(Exception):
    """An answer the caller may see: `message` is shown as it is, so it holds no secrets.

    Args:
        code: stable and machine-readable, listed in `docs/errors.md`.
        param: the request field at fault.
        retry_after: seconds until it is worth trying again.
    """

    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


class BadRequestError(GalleyError):
    """Malformed, or asks for what this model cannot do."""

    status = 400


class AuthenticationError(GalleyError):
    """No key, or a key that opens nothing."""

    status = 401


class PermissionDeniedError(GalleyError):
    """A good key that may not do this."""

    status = 403


class NotFoundError(GalleyError):
    """Absent, or absent for this caller."""

    status = 404


class ConflictError(GalleyError):
    """Collides with what is already there."""

    status = 409


class RequestTooLargeError(GalleyError):
    """More bytes than this route takes."""

    status = 413


class UnprocessableError(GalleyError):
    """A native route's input does not fit its schema.

    Args:
        details: FastAPI's list of errors, without the input that caused them.
    """

    status = 422

    def __init__(self, message: str, *, details: list[dict[str, Any]]) -> None:
        super().__init__(message, code="invalid_request")
        self.details = details


class RateLimitError(GalleyError):
    """A limit is used up.

    Args:
        should_retry: whether a program may wait for it; if not, somebody has to do something.
    """

    status = 429

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retry_after: float | None = None,
        should_retry: bool = True,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.should_retry = should_retry


class CancelledError(GalleyError):
    """The caller hung up before the answer was whole; nobody reads this but the ledger."""

    status = 499


class InternalError(GalleyError):
    """Our fault."""

    status = 500


class EngineError(GalleyError):
    """A model failed."""

    status = 502


class OverloadedError(GalleyError):
    """The server is full, or the model is not ready yet.

    Args:
        is_told: `retry_after` is what the model's server said, and not a guess of ours.
    """

    status = 503

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after: float | None = None,
        is_told: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.is_told = is_told


class EngineTimeoutError(GalleyError):
    """A model took too long."""

    status = 504
