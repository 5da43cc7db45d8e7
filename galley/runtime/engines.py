"""Which engine runs a model: the one place that knows all of them."""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from galley.core.catalogue import ModelSettings
from galley.core.settings import Settings
from galley.engines.anthropic_http import AnthropicHttpEngine
from galley.engines.base import Engine
from galley.engines.http_patience import Patience
from galley.engines.llama import LlamaEngine
from galley.engines.openai_embedder import OpenAIHttpEmbedder
from galley.engines.openai_http import OpenAIHttpEngine
from galley.engines.openai_moderator import OpenAIHttpModerator
from galley.engines.openai_reranker import OpenAIHttpReranker
from galley.engines.prompted_tools import PromptedTools
from galley.schemas.chat import ChatRequest
from galley.services.models import OpenEngine
from galley.services.sources import SourceError, check_weights, find, find_projector


def engine_opener(settings: Settings) -> OpenEngine:
    """Return what opens a model by its name and settings."""

    async def open_engine(name: str, model: ModelSettings) -> Engine:
        if model.source.startswith("http"):
            return await _open_http(name, model)
        path = find(name, model, settings.models_dir)
        if path is None:
            raise SourceError(f"its files are not here: run `galley models install` ({name})")
        if model.engine == "torch":
            check_weights(model, path)
            return await _open_torch(path, model)
        projector = find_projector(name, model, settings.models_dir)
        for weights in filter(None, (path, projector)):
            check_weights(model, weights)
        return await _open_local(name, model, path, projector)

    return open_engine


async def _open_http(name: str, model: ModelSettings) -> Engine:
    if model.kind == "classify":
        raise SourceError("models that classify cannot be served by another server")
    server: dict[str, Any] = {
        "url": model.source,
        "model": model.upstream_model or name,
        "api_key": model.api_key,
        "headers": model.sent_headers,
        "patience": Patience(model.connect_timeout, model.first_token_timeout, model.idle_timeout),
    }
    engine: (
        OpenAIHttpEmbedder | OpenAIHttpReranker | OpenAIHttpModerator | OpenAIHttpEngine
        | AnthropicHttpEngine
    )  # fmt: skip
    if model.kind == "embeddings":
        engine = OpenAIHttpEmbedder(**server, max_tokens=model.context)
    elif model.kind == "rerank":
        engine = OpenAIHttpReranker(**server, max_tokens=model.context)
    elif model.kind == "moderation":
        engine = OpenAIHttpModerator(**server)
    elif model.protocol == "anthropic":
        engine = AnthropicHttpEngine(**server, slots=model.most_at_once)
    else:
        engine = OpenAIHttpEngine(
            **server,
            slots=model.most_at_once,
            always_stream=model.always_stream,
            pass_fields=_known(model.pass_fields),
        )
    try:
        await engine.look()
    except BaseException:  # it may be told to stop meanwhile
        await engine.aclose()
        raise
    if model.tools or not isinstance(engine, OpenAIHttpEngine | AnthropicHttpEngine):
        return engine
    return PromptedTools(engine)


def _known(fields: Sequence[str]) -> Sequence[str]:
    if unknown := set(fields) - ChatRequest.inert:
        raise SourceError(
            f"pass_fields names {', '.join(sorted(unknown))}; what can be passed on is "
            f"{', '.join(sorted(ChatRequest.inert))}"
        )
    return fields


async def _open_local(
    name: str, model: ModelSettings, path: Path, projector: Path | None
) -> Engine:
    if model.kind == "chat":
        engine = LlamaEngine(name, path, model, projector=projector)
        await engine.start()
        return engine
    return await asyncio.to_thread(_open_onnx, path, model)


def _open_onnx(path: Path, model: ModelSettings) -> Engine:
    # ONNX Runtime is 25 MB, which a server without such models does without.
    if model.kind == "embeddings":
        from galley.engines.onnx_embedder import open_embedder

        return open_embedder(path, model.threads)
    from galley.engines.onnx_classifier import open_classifier

    return open_classifier(path, model.threads)


async def _open_torch(path: Path, model: ModelSettings) -> Engine:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise SourceError(
                f'engine = "torch" needs {package}, which is not installed: run'
                " `pip install 'galley[torch]'` where Galley is, and start it again"
            )
    engine = await asyncio.to_thread(_load_torch, path, model)
    return PromptedTools(engine) if model.kind == "chat" else engine


def _load_torch(path: Path, model: ModelSettings) -> Any:
    # torch takes seconds to import, and is not there unless it was asked for.
    if model.kind == "chat":
        from galley.engines.torch_chat import open_chat

        return open_chat(path, model)
    if model.kind == "embeddings":
        from galley.engines.torch_embedder import open_embedder

        return open_embedder(path, model.threads)
    from galley.engines.torch_classifier import open_classifier

    return open_classifier(path, model.threads)
