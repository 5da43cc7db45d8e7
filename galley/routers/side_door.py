"""The side door: requests from within, such as the lines of a batch, join the front door's road.

Permission, row in the ledger, limits, service, settlement and the words of a refusal are the same;
nobody hangs up, and the answer is handed back instead of sent.
"""

import asyncio
from typing import Any

import structlog
from starlette.types import Message, Scope

from galley.core.errors import BadRequestError, GalleyError, InternalError
from galley.core.logging import answering
from galley.routers import chat, embeddings, messages, responses
from galley.routers.answers import send_error
from galley.routers.deps import permit
from galley.routers.front_door import Call
from galley.routers.hangup import Listening
from galley.runtime import Runtime
from galley.services.charge import Charge
from galley.services.metering import comes_again
from galley.services.side_door import Answered, Asked

log = structlog.get_logger(__name__)

ENDPOINTS = {
    endpoint.paths[0]: endpoint
    for room in (chat, embeddings, messages, responses)
    for endpoint in room.ENDPOINTS
}
LONGEST_S = 3600.0
"""How long one request may take, the wait for a gap included."""


async def answer(runtime: Runtime, asked: Asked) -> Answered:
    """Answer a request that did not come over HTTP; see `services/side_door.py`."""
    charge, sent = None, _Sent()
    endpoint, request_id = ENDPOINTS[asked.path], asked.arrival.request_id
    answering.set(request_id)
    try:
        async with runtime.meter.hold(asked.arrival, asked.caller, endpoint.name) as charge:
            charge.background = True
            permit(asked.caller, endpoint.scope)
            with Listening(_nobody, LONGEST_S) as listening:
                scope: Scope = {"arrival": asked.arrival, "headers": (), "query_string": b""}
                await endpoint.handle(
                    _WholeCall(
                        runtime, charge, endpoint.dialect, asked.body, scope, sent, listening
                    )
                )
    except GalleyError as error:
        if charge is not None and comes_again(charge, error):
            raise
        await send_error(sent, error, endpoint.dialect, request_id)
    except Exception:
        log.exception("request_failed", request_id=request_id, path=asked.path)
        failed = InternalError(
            f"The server failed. Its log has more under {request_id}.", code="internal_error"
        )
        await send_error(sent, failed, endpoint.dialect, request_id)
    return sent.answered(charge)


class _Sent:
    """What an answer was made of."""

    def __init__(self) -> None:
        self._status = 0
        self._body = b""

    async def __call__(self, message: Message) -> None:
        self._status = message.get("status", self._status)
        self._body += message.get("body", b"")

    def answered(self, charge: Charge | None) -> Answered:
        if charge is None:
            return Answered(self._status, self._body)
        record = charge.record
        return Answered(
            self._status,
            self._body,
            record.prompt_tokens,
            record.cached_tokens,
            record.completion_tokens,
        )


class _WholeCall(Call):
    """A call whose answer is whole: nobody is there to see it come."""

    async def stream(self, answer: Any, frames: Any) -> None:
        raise BadRequestError(
            "What is answered later cannot be streamed: leave out `stream`.",
            code="stream_not_supported",
            param="stream",
        )


async def _nobody() -> Message:
    """Wait for a hang-up that does not come."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}
