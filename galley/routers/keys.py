"""One's own API keys."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query

from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import KeysCaller, RuntimeDep
from galley.routers.openapi import refusals
from galley.schemas.keys import KeyCreate, KeyList, KeyReply, KeyRotate, KeyUpdate, NewKeyReply

router = APIRouter(
    prefix="/v1/keys",
    tags=["keys"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)

After = Annotated[str | None, Query(description="The last id of the page before.", max_length=64)]
PageSize = Annotated[int, Query(ge=1, le=1000)]
NewKey = Annotated[
    KeyCreate,
    Body(
        openapi_examples={
            "example": {"value": {"name": "laptop", "scopes": ["chat"], "expires_in_days": 30}}
        }
    ),
]


@router.get("", summary="List your keys", responses=refusals(native, 400))
async def list_keys(
    caller: KeysCaller, runtime: RuntimeDep, after: After = None, limit: PageSize = 100
) -> KeyList:
    """List your keys, revoked ones too, the oldest first."""
    return await runtime.keys.list(caller.user_id, after=after, limit=limit)


@router.post("", summary="Make a key", responses=refusals(native, 400, 409, 413))
async def create_key(caller: KeysCaller, runtime: RuntimeDep, request: NewKey) -> NewKeyReply:
    """Make a key that may do no more than the one you came with. It is shown this once."""
    return await runtime.keys.create(caller, caller.user_id, request)


@router.get("/{key_id}", summary="Describe a key", responses=refusals(native, 404))
async def retrieve_key(caller: KeysCaller, runtime: RuntimeDep, key_id: str) -> KeyReply:
    """Describe one of your keys."""
    return await runtime.keys.find(caller.user_id, key_id)


@router.patch("/{key_id}", summary="Change a key", responses=refusals(native, 404, 413))
async def update_key(
    caller: KeysCaller,
    runtime: RuntimeDep,
    key_id: str,
    request: Annotated[
        KeyUpdate,
        Body(openapi_examples={"example": {"value": {"limits": {"requests_per_minute": 10}}}}),
    ],
) -> KeyReply:
    """Change the name or the ceilings of one of your keys."""
    return await runtime.keys.update(caller, key_id, request)


@router.delete("/{key_id}", summary="Revoke a key", responses=refusals(native, 404))
async def revoke_key(caller: KeysCaller, runtime: RuntimeDep, key_id: str) -> KeyReply:
    """Close one of your keys at once."""
    return await runtime.keys.revoke(caller, caller.user_id, key_id)


@router.post("/{key_id}/rotate", summary="Renew a key", responses=refusals(native, 404, 409, 413))
async def rotate_key(
    caller: KeysCaller,
    runtime: RuntimeDep,
    key_id: str,
    request: Annotated[
        KeyRotate, Body(openapi_examples={"example": {"value": {"overlap_seconds": 3600}}})
    ],
) -> NewKeyReply:
    """Make a key like this one; the old one still opens for `overlap_seconds`."""
    overlap = timedelta(seconds=request.overlap_seconds)
    return await runtime.keys.rotate(caller, key_id, overlap)
