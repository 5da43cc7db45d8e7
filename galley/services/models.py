"""The models of this server: which there are, and how far each has come."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar, cast

import structlog

from galley.core.caller import Caller
from galley.core.catalogue import Kind, ModelSettings, RouteSettings
from galley.core.errors import BadRequestError, NotFoundError, OverloadedError
from galley.engines.base import ChatEngine, Classifier, Embedder, Engine, Moderator, Reranker
from galley.services.breaker import Breaker
from galley.services.routing import Plan, plan

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Engine)
State = Literal["loading", "loaded", "failed"]
GRACE_S = 10.0
"""Longer than a request has a model in hand without being at it: before, and between attempts."""

OpenEngine = Callable[[str, ModelSettings], Awaitable[Engine]]


@dataclass(slots=True)
class Replica(Generic[E]):
    """One place where a model runs, and what is known of it."""

    engine: E
    breaker: Breaker = field(default_factory=Breaker)
    busy: int = 0


@dataclass(slots=True)
class Model:
    """One model of the catalogue."""

    name: str
    settings: ModelSettings
    created: int
    state: State = "loading"
    replicas: Sequence[Replica[Engine]] = ()
    error: str | None = None

    @property
    def engine(self) -> Engine | None:
        """The first of those that run it."""
        return self.replicas[0].engine if self.replicas else None

    @property
    def problem(self) -> str | None:
        """What keeps it from answering right now, in a word or two."""
        if self.state != "loaded":
            return self.error or self.state
        problems = [replica.engine.problem for replica in self.replicas]
        return None if None in problems else problems[0]


@dataclass(frozen=True, slots=True)
class Loaded(Generic[E]):
    """A model that can answer, by its own name."""

    name: str
    replicas: Sequence[Replica[E]]
    settings: ModelSettings

    @property
    def engine(self) -> E:
        """The first of those that run it."""
        return self.replicas[0].engine


class Models:
    """Finds models by name; `galley/<kind>` is the default one of a kind.

    Args:
        catalogue: every model, the default of a kind before the others.
        routes: names that several of them answer to.
        grace_s: how long a model that is taken away stays open for who has it in hand.
    """

    def __init__(
        self,
        catalogue: Mapping[str, ModelSettings],
        routes: Mapping[str, RouteSettings] | None = None,
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        created = int(time.time())
        self._models = {name: Model(name, found, created) for name, found in catalogue.items()}
        self._aliases: dict[str, str] = {}
        self._grace_s = grace_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes: Mapping[str, RouteSettings] = routes or {}
        for name, model in catalogue.items():
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
            raise _unknown(name)
        return model

    def visible(self, caller: Caller) -> list[Model]:
        """Every name that `caller` may ask for; a route looks like its first model."""
        found = [model for model in self.all() if caller.may_use(model.name)]
        routes = (n for n in self.routes if n not in self._models and not n.endswith("*"))
        for name in routes:
            with suppress(NotFoundError):
                first = self._models.get(self.plan(name, caller).models[0])
                found += [replace(first, name=name)] if first else []
        return found

    def plan(self, name: str, caller: Caller) -> Plan:
        """Say which models to ask for `name`, of those that `caller` may use.

        Who may use a route by its name may use all that it leads to.

        Raises:
            NotFoundError: nothing has this name, or nothing that `caller` may use.
        """
        name = self._aliases.get(name, name)
        found = plan(name, self.routes, self._models, user_id=caller.user_id)
        if found is None:
            raise _unknown(name)
        if caller.models is None or (found.route is not None and caller.may_use(found.route)):
            return found
        allowed = tuple(model for model in found.models if caller.may_use(model))
        if not allowed:
            raise _unknown(name)
        return replace(found, models=allowed)

    def chat(self, plan: Plan) -> list[Loaded[ChatEngine]]:
        """Return the chat models of `plan` that can answer, in its order.

        Raises:
            NotFoundError: there are none of these names any more.
            BadRequestError: the first does something else.
            OverloadedError: all are loading, or could not be loaded.
        """
        return cast("list[Loaded[ChatEngine]]", self._loaded(plan, "chat"))

    def loaded_chat(self) -> list[Loaded[ChatEngine]]:
        """Every chat model that is loaded."""
        return [
            cast("Loaded[ChatEngine]", _ready(model))
            for model in self.all()
            if model.settings.kind == "chat" and model.engine is not None
        ]

    def embedders(self, plan: Plan) -> list[Loaded[Embedder]]:
        """As `chat`, for embeddings."""
        return cast("list[Loaded[Embedder]]", self._loaded(plan, "embeddings"))

    def rerankers(self, plan: Plan) -> list[Loaded[Reranker]]:
        """As `chat`, for reranking."""
        return cast("list[Loaded[Reranker]]", self._loaded(plan, "rerank"))

    def moderators(self, plan: Plan) -> list[Loaded[Moderator]]:
        """As `chat`, for moderation."""
        return cast("list[Loaded[Moderator]]", self._loaded(plan, "moderation"))

    def comparer(self) -> Embedder | None:
        """What tells how alike two texts are; None while it is not loaded."""
        found = self._models.get(self._aliases.get("galley/embeddings", ""))
        return cast("Embedder", found.engine) if found and found.engine else None

    def classifier(self, plan: Plan) -> Loaded[Classifier]:
        """As `chat`, for image classification; the first alone."""
        return cast("Loaded[Classifier]", self._loaded(plan, "classify")[0])

    def _loaded(self, plan: Plan, kind: Kind) -> list[Loaded[Engine]]:
        found: list[Loaded[Engine]] = []
        problem: OverloadedError | None = None
        for model in filter(None, map(self._models.get, plan.models)):
            if model.settings.kind != kind:
                raise BadRequestError(
                    f"The model {model.name!r} does {model.settings.kind}, not {kind}.",
                    code="wrong_model_kind",
                    param="model",
                )
            try:
                found.append(_ready(model))
            except OverloadedError as error:
                problem = problem or error
        if not found:
            raise problem or _unknown(plan.route or plan.models[0])
        return found

    async def load(self, open_engine: OpenEngine) -> None:
        """Load every model, side by side; one that fails does not stop the others.

        Args:
            open_engine: opens a model in one place.
        """
        await asyncio.gather(*(self._load(model, open_engine) for model in self.all()))

    def add(self, name: str, settings: ModelSettings, open_engine: OpenEngine) -> None:
        """Add a model, or put another in its place, and load it in the background."""
        self.remove(name)
        model = self._models[name] = Model(name, settings, int(time.time()))
        self._keep(asyncio.create_task(self._load(model, open_engine)))

    def remove(self, name: str) -> None:
        """Take a model away; its engines close once what runs on them is done."""
        if (model := self._models.pop(name, None)) is not None:
            self._keep(asyncio.create_task(_retire(model, self._grace_s)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, model: Model, open_engine: OpenEngine) -> None:
        began = time.perf_counter()
        engines: list[Engine] = []
        try:
            for settings in model.settings.each:
                engines.append(await open_engine(model.name, settings))  # noqa: PERF401 - one may fail, and those before it are open
            if self._models.get(model.name) is model:  # else it was taken away meanwhile
                model.replicas, model.state = [Replica(engine) for engine in engines], "loaded"
        except Exception as error:
            model.state, model.error = "failed", str(error)
            log.error("model_failed", model=model.name, error=str(error))
        finally:
            if not model.replicas:
                await asyncio.gather(*(engine.aclose() for engine in engines))
        if model.replicas:
            took = round(time.perf_counter() - began, 3)
            log.info("model_loaded", model=model.name, hardware=engines[0].hardware, seconds=took)

    async def aclose(self) -> None:
        """Stop every engine."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        engines = [replica.engine for model in self.all() for replica in model.replicas]
        await asyncio.gather(*(engine.aclose() for engine in engines))


async def _retire(model: Model, grace_s: float) -> None:
    try:
        await asyncio.sleep(grace_s)
        while any(replica.busy for replica in model.replicas):  # noqa: ASYNC110 - as rare as it is
            await asyncio.sleep(grace_s)
    finally:
        await asyncio.gather(*(replica.engine.aclose() for replica in model.replicas))


def _ready(model: Model) -> Loaded[Engine]:
    if model.replicas:
        return Loaded(model.name, model.replicas, model.settings)
    if model.state == "failed":
        raise OverloadedError(
            # Why names files and addresses: that is for who runs the server.
            f"The model {model.name!r} could not be loaded. The server's log says why.",
            code="model_not_loaded",
        )
    raise OverloadedError(
        f"The model {model.name!r} is still loading. Try again in a moment.",
        code="model_loading",
        retry_after=2,
    )


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"The model {name!r} does not exist. GET /v1/models lists those that do.",
        code="model_not_found",
        param="model",
    )
