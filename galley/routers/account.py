"""What a caller may know of the models."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query

from galley.dialects import anthropic, native, openai
from galley.routers.deps import CallerDep, RuntimeDep
from galley.routers.openapi import refusals
from galley.schemas.account import AnthropicModel, AnthropicModelList, ModelList, ModelReply
from galley.schemas.classify import ModelInfo
from galley.services.models import Model

router = APIRouter()

AnthropicVersion = Annotated[str | None, Header(description="Anthropic's clients send it.")]
AnthropicCursor = Annotated[
    str | None, Query(description="In Anthropic's shape: the id of a model.")
]


@router.get(
    "/v1/models",
    summary="List models",
    tags=["models"],
    responses=refusals(openai, 400, 401, 500, or_anthropic=True),
)
@router.get("/v1/model", tags=["models"], include_in_schema=False)
async def list_models(
    caller: CallerDep,
    runtime: RuntimeDep,
    anthropic_version: AnthropicVersion = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="In Anthropic's shape.")] = 20,
    after_id: AnthropicCursor = None,
    before_id: AnthropicCursor = None,
) -> ModelList | AnthropicModelList:
    """List the models, the default of each kind first.

    To who sends `anthropic-version`, in Anthropic's shape and in pages.
    """
    models = runtime.models.visible(caller)
    if anthropic_version is None:
        return ModelList(data=[_reply(model) for model in models])
    listed = [_anthropic_reply(model) for model in models]
    return anthropic.model_page(listed, after_id=after_id, before_id=before_id, limit=limit)


@router.get(
    "/v1/models/{model:path}",
    summary="Describe a model",
    tags=["models"],
    responses=refusals(openai, 401, 404, 500, or_anthropic=True),
)
async def retrieve_model(
    model: Annotated[str, Path(openapi_examples={"chat": {"value": "galley/chat"}})],
    caller: CallerDep,
    runtime: RuntimeDep,
    anthropic_version: AnthropicVersion = None,
) -> ModelReply | AnthropicModel:
    """Describe one model; to who sends `anthropic-version`, in Anthropic's shape."""
    routes = (shown for shown in runtime.models.visible(caller) if shown.name == model)
    found = next(routes, None) or runtime.models.find(model, caller)
    return _reply(found) if anthropic_version is None else _anthropic_reply(found)


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


def _anthropic_reply(model: Model) -> AnthropicModel:
    return AnthropicModel(id=model.name, display_name=model.name)


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
