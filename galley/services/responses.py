"""OpenAI's Responses: answers that are kept, to go on from and to look up."""

import re
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from typing import Any, Literal

import orjson
from sqlalchemy.exc import SQLAlchemyError

from galley.core.errors import (
    BadRequestError,
    NotFoundError,
    OverloadedError,
    RequestTooLargeError,
)
from galley.db.responses import delete_response, find_body, find_items, put_response
from galley.db.session import Sessions, is_unavailable
from galley.db.tables import StoredResponse, parse_id, utc_now
from galley.dialects.responses import ResponseFrames, hex_of
from galley.dialects.responses_requests import chat_request, read_items, write_items
from galley.schemas.delta import Delta
from galley.schemas.responses import (
    DeletedResponse,
    InputItemList,
    InputItemReply,
    ResponseReply,
    ResponsesRequest,
)
from galley.schemas.responses_input import ItemReference, SaidItem
from galley.services.charge import Charge
from galley.services.chat import ChatService

MOST_REFERRED = 64
"""From how many responses a request may refer to items; each is read whole."""

_OUTPUT_ID = re.compile(r"[a-z]+_([0-9a-f]{32})_\d+")


class ResponseService:
    """Answers in the shape of Responses, and keeps them for their owner.

    Args:
        most_bytes: the longest conversation that is kept, as JSON.
    """

    def __init__(
        self,
        sessions: Sessions,
        chat: ChatService,
        *,
        most_bytes: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._sessions = sessions
        self._chat = chat
        self._most_bytes = most_bytes
        self._clock = clock

    async def stream(
        self, charge: Charge, request: ResponsesRequest, frames: ResponseFrames
    ) -> AsyncGenerator[list[Delta]]:
        """Yield the answer as it is made; when it is whole, finish `frames`, and keep it.

        Raises:
            NotFoundError: what it goes on from, or refers to, is not the caller's.
            RequestTooLargeError: the conversation is too long to be kept.
            OverloadedError: the database does not answer; else as `ChatService.stream`.
        """
        user_id, identity = charge.caller.user_id, charge.arrival.request_id
        items = await self._conversation(user_id, request)
        told = chat_request(request, items)
        kept = b""
        if request.store is not False:
            kept = self._packed(write_items(items, hex_of(identity)))
        answer = await self._chat.stream(charge, told, ignored=request.ignored)
        grounded = False
        async with aclosing(answer):
            async for pieces in answer:
                frames.model = charge.record.served_model or ""
                if charge.grounding is not None and not grounded:
                    frames.ground(charge.grounding)
                    grounded = True
                yield pieces
        frames.finish(charge.usage, self._clock())
        if kept:
            body = orjson.dumps(frames.whole)
            row = StoredResponse(id=identity, user_id=user_id, body=body, items=kept)
            with _database():
                async with self._sessions.begin() as session:
                    await put_response(session, row)

    async def find(self, user_id: str, response_id: str) -> ResponseReply:
        """Return a response of `user_id`.

        Raises:
            NotFoundError: there is none, or not for them.
        """
        return ResponseReply.model_validate_json(await self._body(user_id, response_id))

    async def delete(self, user_id: str, response_id: str) -> DeletedResponse:
        """Delete a response of `user_id`; those that went on from it stay as they are.

        Raises:
            NotFoundError: as `find`.
        """
        known = _known(response_id)
        async with self._sessions.begin() as session:
            if not await delete_response(session, user_id=user_id, response_id=known):
                raise _not_found(response_id)
        return DeletedResponse(id=response_id)

    async def input_items(
        self,
        user_id: str,
        response_id: str,
        *,
        order: Literal["asc", "desc"],
        after: str | None,
        limit: int,
    ) -> InputItemList:
        """List all that the model was told for a response of `user_id`, in pages.

        Args:
            after: the id of the last item of the page before.
        Raises:
            NotFoundError: as `find`.
            BadRequestError: `after` is no item of the list.
        """
        items = await self._items(user_id, response_id)
        if order == "desc":
            items.reverse()
        ids = [item["id"] for item in items]
        if after is not None and after not in ids:
            raise BadRequestError(
                "after must be an id from this list.", code="invalid_cursor", param="after"
            )
        begin = 0 if after is None else ids.index(after) + 1
        page = items[begin : begin + limit]
        return InputItemList(
            data=[InputItemReply.model_validate(item) for item in page],
            first_id=page[0]["id"] if page else None,
            last_id=page[-1]["id"] if page else None,
            has_more=len(items) > begin + limit,
        )

    async def _conversation(self, user_id: str, request: ResponsesRequest) -> list[SaidItem]:
        """Return all items that the model is told, references replaced by what they mean."""
        said = request.items
        referred = [item.id for item in said if isinstance(item, ItemReference)]
        if len(set(referred)) < len(referred):  # a text that is said a thousand times is none
            raise BadRequestError(
                "The input refers to the same item more than once.",
                code="invalid_request",
                param="input",
            )
        with _database():
            before = await self._before(user_id, request.previous_response_id)
            known = await self._referred(user_id, referred)
        return [*before, *(known[i.id] if isinstance(i, ItemReference) else i for i in said)]

    async def _before(self, user_id: str, response_id: str | None) -> list[SaidItem]:
        if response_id is None:
            return []
        try:
            told = await self._items(user_id, response_id)
            answered = orjson.loads(await self._body(user_id, response_id))["output"]
        except NotFoundError as error:
            raise NotFoundError(
                error.message, code="previous_response_not_found", param="previous_response_id"
            ) from None
        return read_items([*told, *answered])

    async def _referred(self, user_id: str, item_ids: Sequence[str]) -> dict[str, SaidItem]:
        found = [_OUTPUT_ID.fullmatch(item_id) for item_id in item_ids]
        responses = {f"resp_{match[1]}" for match in found if match}
        if len(responses) > MOST_REFERRED:
            raise BadRequestError(
                f"The input refers to items of more than {MOST_REFERRED} responses.",
                code="invalid_request",
                param="input",
            )
        known: dict[str, SaidItem] = {}
        for response_id in responses:
            with suppress(NotFoundError):
                output = orjson.loads(await self._body(user_id, response_id))["output"]
                known |= {item.id: item for item in read_items(output) if item.id}
        if missing := next((item_id for item_id in item_ids if item_id not in known), None):
            raise NotFoundError(
                f"There is no item {missing!r} of a response of yours that was kept.",
                code="item_not_found",
                param="input",
            )
        return known

    async def _body(self, user_id: str, response_id: str) -> bytes:
        async with self._sessions() as session:
            found = await find_body(session, user_id=user_id, response_id=_known(response_id))
        if found is None:
            raise _not_found(response_id)
        return found

    async def _items(self, user_id: str, response_id: str) -> list[dict[str, Any]]:
        async with self._sessions() as session:
            found = await find_items(session, user_id=user_id, response_id=_known(response_id))
        if found is None:
            raise _not_found(response_id)
        return orjson.loads(found)

    def _packed(self, items: list[dict[str, Any]]) -> bytes:
        packed = orjson.dumps(items)
        if len(packed) > self._most_bytes:
            raise RequestTooLargeError(
                f"The conversation is larger than {self._most_bytes} bytes, too large to be kept."
                " Begin a new one, or send `store`: false.",
                code="request_too_large",
                param="input",
            )
        return packed


def _known(response_id: str) -> str:
    """Return the id of the request that a response came of."""
    known = parse_id(response_id[5:]) if response_id.startswith("resp_") else None
    if known is None:
        raise _not_found(response_id)
    return known


def _not_found(response_id: str) -> NotFoundError:
    shown = response_id[:64]
    return NotFoundError(
        f"You have no response {shown!r} here: it was not stored, was deleted, or is too old.",
        code="response_not_found",
    )


@contextmanager
def _database() -> Generator[None]:
    """Say it in the words of a route when the database is lost: a stream may have begun."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        if not is_unavailable(error):
            raise
        raise OverloadedError(
            "The server's database does not answer. Try again in a moment.",
            code="database_unavailable",
            retry_after=1,
        ) from error
