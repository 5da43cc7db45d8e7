"""Collections: what documents are in."""

from typing import Annotated

from fastapi import APIRouter, Body

from galley.dialects import native
from galley.routers import names
from galley.routers.bodies import BodyRoute
from galley.routers.deps import DocumentsCaller, RuntimeDep
from galley.routers.keys import After, PageSize
from galley.routers.openapi import refusals
from galley.schemas.documents import CollectionCreate, CollectionList, CollectionReply, Removed
from galley.stores.passages import EVERYONE, Collection

names.register()
router = APIRouter(
    prefix="/v1/collections",
    tags=["documents"],
    route_class=BodyRoute,
    responses=refusals(native, 401, 403, 422, 500),
)


@router.post(
    "",
    status_code=201,
    summary="Make a collection",
    responses=refusals(native, 400, 404, 409, 413, 503),
)
async def create_collection(
    caller: DocumentsCaller,
    runtime: RuntimeDep,
    request: Annotated[
        CollectionCreate, Body(openapi_examples={"example": {"value": {"name": "manuals"}}})
    ],
) -> CollectionReply:
    """Make a collection for documents. One named `default` is made when it is needed."""
    return _collection(await runtime.documents.service.create_collection(caller, request))


@router.get("", summary="List collections", responses=refusals(native, 400))
async def list_collections(
    caller: DocumentsCaller, runtime: RuntimeDep, after: After = None, limit: PageSize = 100
) -> CollectionList:
    """List your collections and those that belong to everybody."""
    page = await runtime.documents.service.collections(caller, after=after, limit=limit)
    return CollectionList(data=[_collection(row) for row in page.rows], has_more=page.has_more)


@router.get("/{name:model}", summary="Describe a collection", responses=refusals(native, 404))
async def retrieve_collection(
    caller: DocumentsCaller, runtime: RuntimeDep, name: str
) -> CollectionReply:
    """Describe a collection, by its name or id."""
    return _collection(await runtime.documents.service.collection(caller, name))


@router.delete("/{name:model}", summary="Delete a collection", responses=refusals(native, 404))
async def delete_collection(caller: DocumentsCaller, runtime: RuntimeDep, name: str) -> Removed:
    """Delete a collection, by its name or id, and all documents in it."""
    gone = await runtime.documents.service.delete_collection(caller, name)
    return Removed(id=gone.id, object="collection.deleted")


def _collection(found: Collection) -> CollectionReply:
    return CollectionReply(
        id=found.id,
        name=found.name,
        description=found.description,
        metadata=dict(found.metadata),
        model=found.model,
        dimensions=found.dimensions,
        documents=found.documents,
        passages=found.passages,
        read_only=found.owner == EVERYONE,
        created_at=found.created_at,
    )
