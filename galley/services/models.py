"""The models of this server: which there are, and how far each has come."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

import structlog

from galley.core.caller import Caller
from galley.core.catalogue import Kind, ModelSettings
from galley.core.errors import BadRequestError, NotFoundError, OverloadedError
from galley.engines.base import ChatEngine, Classifier, Embedder, Engine

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Engine)
State = Literal["loading", "loaded", "failed"]


@dataclass(slots=True)
class Model:
    """One model of the catalogue."""

    name: str
    settings: ModelSettings
    created: int
    state: State = "loading"
    engine: Engine | None = None
    error: str | None = None

    @property
    def problem(self) -> str | None:
        """What keeps it from answering right now, in a word or two."""
        if self.state != "loaded":
            return self.error or self.state
        return self.engine.problem if self.engine else None


@dataclass(frozen=True, slots=True)
class Loaded(Generic[E]):
    """A model that can answer, by its own name."""

    name: str
    engine: E
    settings: ModelSettings


class Models:
    """Finds models by name; `galley/<kind>` is the default one of a kind."""

    def __init__(self, catalogue: Mapping[str, ModelSettings]) -> None:
        created = int(time.time())
        self._models = {name: Model(name, found, created) for name, found in catalogue.items()}
        self._aliases: dict[str, str] = {}
        for name, model in catalogue.items():  # a default comes first
            self._aliases.setdefault(f"galley/{model.kind}", name)

    def all(self) -> list[Model]:
        """Every model, the default of each kind before the others."""
        return list(self._models.values())

    def find(self, name: str, caller: Caller | None = None) -> Model:
        """Return the model called `name`, loaded or not.

        Raises:
            NotFoundError: no model has this name, or none that `caller` may use.
        """
        model = self._models.get(self._aliases.get(name, name))
        if model is None or not (caller is None or caller.may_use(model.name)):
            raise NotFoundError(
                f"The model {name!r} does not exist. GET /v1/models lists those that do.",
                code="model_not_found",
                param="model",
            )
        return model

    def chat(self, name: str, caller: Caller | None = None) -> Loaded[ChatEngine]:
        """Return a chat model that can answer.

        Raises:
            NotFoundError: no model has this name, or none that `caller` may use.
            BadRequestError: it does something else.
            OverloadedError: it is loading, or could not be loaded.
        """
        return cast("Loaded[ChatEngine]", self._loaded(name, "chat", caller))

    def loaded_chat(self) -> list[Loaded[ChatEngine]]:
        """Every chat model that is loaded."""
        return [
            self.chat(model.name)
            for model in self.all()
            if model.settings.kind == "chat" and model.engine is not None
        ]

    def embedder(self, name: str, caller: Caller) -> Loaded[Embedder]:
        """As `chat`, for embeddings."""
        return cast("Loaded[Embedder]", self._loaded(name, "embeddings", caller))

    def classifier(self, name: str, caller: Caller) -> Loaded[Classifier]:
        """As `chat`, for image classification."""
        return cast("Loaded[Classifier]", self._loaded(name, "classify", caller))

    def _loaded(self, name: str, kind: Kind, caller: Caller | None) -> Loaded[Engine]:
        model = self.find(name, caller)
        if model.settings.kind != kind:
            raise BadRequestError(
                f"The model {model.name!r} does {model.settings.kind}, not {kind}.",
                code="wrong_model_kind",
                param="model",
            )
        if model.engine is None:
            if model.state == "failed":
                raise OverloadedError(
                    f"The model {model.name!r} could not be loaded: {model.error}",
                    code="model_not_loaded",
                )
            raise OverloadedError(
                f"The model {model.name!r} is still loading. Try again in a moment.",
                code="model_loading",
                retry_after=2,
            )
        return Loaded(model.name, model.engine, model.settings)

    async def load(self, open_engine: Callable[[str, ModelSettings], Awaitable[Engine]]) -> None:
        """Load every model, side by side; one that fails does not stop the others."""
        await asyncio.gather(*(self._load(model, open_engine) for model in self.all()))

    async def _load(
        self, model: Model, open_engine: Callable[[str, ModelSettings], Awaitable[Engine]]
    ) -> None:
        began = time.perf_counter()
        try:
            engine = await open_engine(model.name, model.settings)
        except Exception as error:
            model.state, model.error = "failed", str(error)
            log.error("model_failed", model=model.name, error=str(error))
            return
        model.engine, model.state = engine, "loaded"
        took = round(time.perf_counter() - began, 3)
        log.info("model_loaded", model=model.name, hardware=engine.hardware, seconds=took)

    async def aclose(self) -> None:
        """Stop every engine."""
        engines = [model.engine for model in self.all() if model.engine is not None]
        await asyncio.gather(*(engine.aclose() for engine in engines))
