"""What other servers do wrong, as errors of ours: their words stay in the log, without secrets."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

import orjson
import structlog

from galley.core.errors import (
    BadRequestError,
    EngineError,
    EngineTimeoutError,
    GalleyError,
    OverloadedError,
)
from galley.engines.http_client import NotHttpError, UnreachableError

log = structlog.get_logger(__name__)

LONGEST_RETRY_AFTER_S = 60.0
_MOST_SAID = 1000  # characters

_BUSY = {429, 503, 529}
_REFUSED = {400, 413, 422}
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error"}  # OpenAI's word, llama.cpp's
_TOO_LONG_SAID = ("prompt is too long", "maximum context length")  # Anthropic's words, vLLM's
_STATUSES = {  # of errors within a stream. Source: Anthropic API reference, Errors
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


class Faults:
    """Turns what goes wrong with another server into errors.

    Args:
        model: its name over there, for the log.
        secrets: what must not be repeated anywhere, whoever says it.
    """

    def __init__(self, model: str, secrets: Sequence[str]) -> None:
        self._model = model
        self._secrets = sorted((s for s in secrets if s), key=len, reverse=True)

    def failure(self, said: str) -> EngineError:
        """It failed, or sent what makes no sense; `said` is for the log alone."""
        log.error("engine_failed", model=self._model, said=self._hide(said)[:_MOST_SAID])
        return EngineError("The model's server failed.", code="engine_error")

    def refusal(self, status: int, answer: bytes, retry_after: str | None = None) -> GalleyError:
        """It answered with `status`, which is no success, and perhaps said when to come back."""
        if status in _REFUSED:
            return self._refused(answer)
        if status in _BUSY:
            return OverloadedError(
                "The model's server is busy. Try again.",
                code="engine_unavailable",
                retry_after=seconds_to_wait(retry_after, datetime.now(UTC)),
                is_told=retry_after is not None,
            )
        if status in (401, 403):  # what it says of a key may quote it
            log.error("upstream_auth_failed", model=self._model, status=status)
            return EngineError(
                "The model's server does not let this server in: its key there is wrong.",
                code="upstream_auth",
            )
        return self.failure(f"{status}: {answer.decode(errors='replace')}")

    def event(self, error: Any) -> GalleyError:
        """It sent an error in the middle of an answer."""
        status = None
        if isinstance(error, dict):
            code = error.get("code")
            status = code if isinstance(code, int) else _STATUSES.get(str(error.get("type")))
        if status is None or status < 400:
            return self.failure(str(error))
        return self.refusal(status, orjson.dumps({"error": error}))

    def silence(self, error: OSError) -> GalleyError:
        """It is not there, took too long, broke off, or does not speak HTTP."""
        if isinstance(error, UnreachableError):
            why = type(error.__cause__ or error).__name__
            log.warning("engine_unreachable", model=self._model, why=why)
            return OverloadedError(
                "The model's server does not answer. Try again.",
                code="engine_unavailable",
                retry_after=1,
            )
        if isinstance(error, TimeoutError):
            log.error("engine_too_slow", model=self._model)
            return EngineTimeoutError(
                "The model's server took too long. Try again.", code="engine_timeout"
            )
        if isinstance(error, NotHttpError):
            return self.failure(f"it does not speak HTTP: {error}")
        return broken_off()

    def _refused(self, answer: bytes) -> BadRequestError:
        """Pass on what a server says of a request that it does not take."""
        try:
            body = orjson.loads(answer)
            error = body.get("error") or body
            message, kinds = str(error["message"]), {str(error.get("type")), str(error.get("code"))}
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            message, kinds = "The model's server does not take this request.", set[str]()
        too_long = kinds & _TOO_LONG or any(words in message for words in _TOO_LONG_SAID)
        return BadRequestError(
            self._hide(message)[:_MOST_SAID],
            code="context_length_exceeded" if too_long else "refused_by_model",
        )

    def _hide(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said


def broken_off() -> OverloadedError:
    """The connection ended before the answer did."""
    return OverloadedError(
        "The model's server broke off the connection. Try again.",
        code="engine_unavailable",
        retry_after=1,
    )


def seconds_to_wait(retry_after: str | None, now: datetime) -> float:
    """Read the header: seconds or a date. 1 where it says nothing, 60 where it says more.

    Source: RFC 9110, section 10.2.3.
    """
    try:
        wait = float(retry_after or "1")
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after or "")
        except ValueError:
            return 1.0
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER_S) if isfinite(wait) else 1.0
