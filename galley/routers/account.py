"""What a caller may know of the models."""

from typing import Annotated

from fastapi import APIRouter, Path

from galley.dialects import native, openai
from galley.routers.deps import CallerDep, RuntimeDep
from galley.routers.openapi import refusals
from galley.schemas.account import ModelList, ModelReply
from galley.schemas.classify import ModelInfo
from galley.services.models import Model

router = APIRouter()


@router.get(
    "/v1/models",
    summary="List models",
    tags=["models"],
    responses=refusals(openai, 401, 500),
)
@router.get("/v1/model", tags=["models"], include_in_schema=False)
async def list_models(caller: CallerDep, runtime: RuntimeDep) -> ModelList:
    """List the models, the default of each kind first."""
    return ModelList(
        data=[_reply(model) for model in runtime.models.all() if caller.may_use(model.name)]
    )


@router.get(
    "/v1/models/{model:path}",
    summary="Describe a model",
    tags=["models"],
    responses=refusals(openai, 401, 404, 500),
)
async def retrieve_model(
    model: Annotated[str, Path(openapi_examples={"chat": {"value": "galley/chat"}})],
    caller: CallerDep,
    runtime: RuntimeDep,
) -> ModelReply:
    """Describe one model."""
    return _reply(runtime.models.find(model, caller))


@router.get(
    "/v1/model/info",
    summary="Describe the classifier",
    tags=["classify"],
    responses=refusals(native, 401, 500),
)
@router.get("/model/info", tags=["classify"], include_in_schema=False)
async def model_info(caller: CallerDep, runtime: RuntimeDep) -> ModelInfo:
    """Describe the image classifier."""
    return runtime.images.info("galley/classify")


def _reply(model: Model) -> ModelReply:
    status = "not answering" if model.state == "loaded" and model.problem else model.state
    return ModelReply(
        id=model.name,
        created=model.created,
        kind=model.settings.kind,
        status=status,
        license=model.settings.license,
        source=model.settings.public_source,
        hardware=model.engine.hardware if model.engine else None,
    )
