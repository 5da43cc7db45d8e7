"""What a text is about that may not be welcome."""

from galley.dialects import openai
from galley.routers.front_door import Call, Endpoint
from galley.schemas.moderations import ModerationReply, ModerationRequest


async def create_moderation(call: Call) -> None:
    """Say of one text, or up to 256, which categories of unwelcome content it falls into."""
    request = await call.parse(ModerationRequest)
    results = await call.runtime.moderation.judge(call.charge, request)
    identity = f"modr-{call.arrival.request_id}"
    reply = ModerationReply(id=identity, model=call.served_model, results=results)
    await call.answer(reply.model_dump_json().encode())


ENDPOINTS = (
    Endpoint(
        name="moderations",
        scope="chat",
        paths=("/v1/moderations",),
        dialect=openai,
        handle=create_moderation,
        request=ModerationRequest,
        reply=ModerationReply,
        example={"model": "omni-moderation-latest", "input": "Have a nice day."},
    ),
)
