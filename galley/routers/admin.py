"""What admins do: users, their keys, tiers, and the log of all of it."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from galley.dialects import native
from galley.routers.bodies import BodyRoute
from galley.routers.deps import AuditAdmin, RuntimeDep, TiersAdmin, UsersAdmin
from galley.routers.keys import After, NewKey, PageSize
from galley.routers.openapi import refusals
from galley.schemas.admin import (
    TIER_NAME,
    TIER_WORDS,
    AuditList,
    CreditAdd,
    TierList,
    TierReply,
    TierUpdate,
    UserCreate,
    UserList,
    UserReply,
    UserUpdate,
)
from galley.schemas.keys import PLAIN, KeyList, KeyReply, NewKeyReply

router = APIRouter(
    prefix="/v1/admin",
    tags=["admin"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)

Name = Annotated[str, Path(max_length=64, pattern=TIER_NAME), TIER_WORDS]
Search = Annotated[str | None, Query(max_length=254, pattern=PLAIN)]


@router.get("/users", summary="List users", responses=refusals(native, 400))
async def list_users(
    caller: UsersAdmin,
    runtime: RuntimeDep,
    email: Search = None,
    after: After = None,
    limit: PageSize = 100,
) -> UserList:
    """List users, the oldest first; with `email`, those whose address has it in it."""
    return await runtime.people.list(email=email, after=after, limit=limit)


@router.post("/users", summary="Add a user", responses=refusals(native, 400, 409, 413))
async def create_user(
    caller: UsersAdmin,
    runtime: RuntimeDep,
    request: Annotated[
        UserCreate,
        Body(
            openapi_examples={
                "example": {"value": {"email": "ada@example.org", "name": "Ada", "tier": "premium"}}
            }
        ),
    ],
) -> UserReply:
    """Add a user; only those who hold every admin scope can make another admin."""
    return await runtime.people.create(caller, request)


@router.get("/users/{user_id}", summary="Describe a user", responses=refusals(native, 404))
async def retrieve_user(caller: UsersAdmin, runtime: RuntimeDep, user_id: str) -> UserReply:
    """Describe one user."""
    return await runtime.people.find(user_id)


@router.patch(
    "/users/{user_id}", summary="Change a user", responses=refusals(native, 400, 404, 409, 413)
)
async def update_user(
    caller: UsersAdmin,
    runtime: RuntimeDep,
    user_id: str,
    request: Annotated[
        UserUpdate,
        Body(
            openapi_examples={
                "example": {"value": {"tier": "premium", "limits": {"images_per_minute": 20}}}
            }
        ),
    ],
) -> UserReply:
    """Change a user's name, tier, status, limits or password, or whether they are an admin."""
    return await runtime.people.update(caller, user_id, request)


@router.post(
    "/users/{user_id}/credit", summary="Top up a user", responses=refusals(native, 400, 404, 413)
)
async def add_credit(
    caller: UsersAdmin,
    runtime: RuntimeDep,
    user_id: str,
    request: Annotated[
        CreditAdd, Body(openapi_examples={"ten dollars": {"value": {"amount": 10_000_000}}})
    ],
) -> UserReply:
    """Add to what a user has paid ahead; from the first time on, they can spend no more than it."""
    return await runtime.people.top_up(caller, user_id, request.amount)


@router.delete("/users/{user_id}", summary="Disable a user", responses=refusals(native, 404, 409))
async def disable_user(caller: UsersAdmin, runtime: RuntimeDep, user_id: str) -> UserReply:
    """Shut a user out at once; what they did stays on record, and `status` lets them in again."""
    return await runtime.people.disable(caller, user_id)


@router.get(
    "/users/{user_id}/keys", summary="List a user's keys", responses=refusals(native, 400, 404)
)
async def list_user_keys(
    caller: UsersAdmin,
    runtime: RuntimeDep,
    user_id: str,
    after: After = None,
    limit: PageSize = 100,
) -> KeyList:
    """List the keys of a user, revoked ones too, the oldest first."""
    return await runtime.keys.list(user_id, after=after, limit=limit)


@router.post(
    "/users/{user_id}/keys",
    summary="Make a key for a user",
    responses=refusals(native, 400, 404, 409, 413),
)
async def create_user_key(
    caller: UsersAdmin, runtime: RuntimeDep, user_id: str, request: NewKey
) -> NewKeyReply:
    """Make a key for a user, with no scope that you or they lack. It is shown this once."""
    return await runtime.keys.create(caller, user_id, request)


@router.delete(
    "/users/{user_id}/keys/{key_id}",
    summary="Revoke a user's key",
    responses=refusals(native, 404),
)
async def revoke_user_key(
    caller: UsersAdmin, runtime: RuntimeDep, user_id: str, key_id: str
) -> KeyReply:
    """Close a key of a user at once."""
    return await runtime.keys.revoke(caller, user_id, key_id)


@router.get("/tiers", summary="List tiers")
async def list_tiers(caller: TiersAdmin, runtime: RuntimeDep) -> TierList:
    """List all tiers, by name."""
    return await runtime.tiers.list()


@router.put("/tiers/{name}", summary="Set a tier", responses=refusals(native, 409, 413))
async def put_tier(
    caller: TiersAdmin,
    runtime: RuntimeDep,
    name: Name,
    request: Annotated[
        TierUpdate,
        Body(
            openapi_examples={
                "example": {"value": {"limits": {"requests_per_minute": 60, "concurrency": 4}}}
            }
        ),
    ],
) -> TierReply:
    """Make a tier, or replace all that it says; it counts from everyone's next request on."""
    return await runtime.tiers.put(caller, name, request)


@router.delete("/tiers/{name}", summary="Delete a tier", responses=refusals(native, 404, 409))
async def delete_tier(caller: TiersAdmin, runtime: RuntimeDep, name: Name) -> TierReply:
    """Delete a tier that nobody is in."""
    return await runtime.tiers.delete(caller, name)


@router.get("/audit", summary="What admins did", responses=refusals(native, 400))
async def list_audit(
    caller: AuditAdmin,
    runtime: RuntimeDep,
    action: Search = None,
    object: Search = None,
    user: Search = None,
    after: After = None,
    limit: PageSize = 100,
) -> AuditList:
    """List what admins did, the latest first: of one action, to one object, by one user."""
    return await runtime.audit_log.list(
        action=action, object=object, user_id=user, after=after, limit=limit
    )
