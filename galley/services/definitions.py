"""Models and routes that admins name while the server runs, on top of those of the settings."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from galley.core.caller import ADMIN_SCOPES, Caller
from galley.core.catalogue import ModelSettings, RouteSettings
from galley.core.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from galley.db.definitions import (
    Kind,
    add_definition,
    current_definitions,
    last_definitions,
)
from galley.db.session import Sessions
from galley.db.tables import Definition
from galley.services.audit_log import note
from galley.services.models import Models, OpenEngine

Spec = TypeVar("Spec", ModelSettings, RouteSettings)

log = structlog.get_logger(__name__)

RELOAD_S = 15.0
"""How soon a server knows what was set on another."""


class Definitions:
    """Keeps `models` as the settings and the database say.

    A route that an admin sets goes before the settings' of the same name until it is deleted.
    """

    def __init__(
        self,
        sessions: Sessions,
        models: Models,
        open_engine: OpenEngine,
        *,
        routes: Mapping[str, RouteSettings],
    ) -> None:
        self._sessions = sessions
        self._models = models
        self._open_engine = open_engine
        self._settled = dict(routes)
        self._own_models: dict[str, ModelSettings] = {}
        self._loading = asyncio.Lock()
        self.own_routes: dict[str, RouteSettings] = {}

    async def load(self) -> None:
        """Read what counts now, and bring `models` to it."""
        async with self._loading:
            async with self._sessions() as session:
                found = await current_definitions(session)
            routes = _read(RouteSettings, found, "route", self.own_routes)
            models = _read(ModelSettings, found, "model", self._own_models)
            for name in self._own_models.keys() - models.keys():
                self._models.remove(name)
            for name, spec in models.items():
                if self._own_models.get(name) != spec:
                    self._models.add(name, spec, self._open_engine)
            self._own_models = models
            self.own_routes = routes
            self._models.routes = self._settled | routes

    async def keep_fresh(self, *, every_s: float = RELOAD_S) -> None:
        """Read them anew from time to time, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.load()
            except (SQLAlchemyError, OSError) as error:
                log.warning("definitions_not_read", error=str(error))

    def is_own(self, model: str) -> bool:
        """Whether an admin added it while the server ran."""
        return model in self._own_models

    async def set_model(self, caller: Caller, name: str, spec: ModelSettings) -> None:
        """Add a model of another server, or change one that was added so.

        Raises:
            ConflictError: the settings have a model of this name.
            PermissionDeniedError: it names variables, which hold keys, and goes where its admin
                says: that is for full admins.
        """
        self._refuse_settled(name)
        _refuse_variables(caller, spec)
        before = self._own_models.get(name)
        await self._write(caller, "model", name, before=_json(before), after=_json(spec))

    async def delete_model(self, caller: Caller, name: str) -> None:
        """Take a model away that was added while the server ran.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is of the settings, or a route leads to it.
        """
        self._refuse_settled(name)
        if (before := self._own_models.get(name)) is None:
            raise _no("model", name)
        used = [route for route, spec in self._models.routes.items() if name in spec.models]
        if used:
            raise ConflictError(
                f"The route {used[0]!r} leads to this model. Change or delete it first.",
                code="model_in_use",
            )
        await self._write(caller, "model", name, before=_json(before), after=None)

    async def set_route(self, caller: Caller, name: str, spec: RouteSettings) -> None:
        """Make a route, or replace one, from the next request on.

        Raises:
            BadRequestError: it leads to a model that is not there.
        """
        known = {model.name: model.settings.kind for model in self._models.all()}
        for model in spec.models:
            if model not in known:
                raise BadRequestError(
                    f"There is no model {model!r} that a route could lead to.",
                    code="model_not_found",
                    param="targets",
                )
        if len({known[model] for model in spec.models}) > 1:
            raise BadRequestError(
                "The models of a route do the same: all chat, all embeddings, or all rerank.",
                code="wrong_model_kind",
                param="targets",
            )
        before = self.own_routes.get(name)
        await self._write(caller, "route", name, before=_json(before), after=_json(spec))

    async def delete_route(self, caller: Caller, name: str) -> None:
        """Forget a route that was set while the server ran; that of the settings counts again.

        Raises:
            NotFoundError: there is none.
        """
        if (before := self.own_routes.get(name)) is None:
            raise _no("route", name)
        await self._write(caller, "route", name, before=_json(before), after=None)

    async def promote(self, caller: Caller, name: str, target: str) -> None:
        """Give all users of a route one of its targets.

        Raises:
            NotFoundError: there is no such route.
            BadRequestError: it has no such target.
        """
        if (route := self._models.routes.get(name)) is None:
            raise _no("route", name)
        if target not in route.targets:
            raise BadRequestError(
                f"The route {name!r} has no target {target!r}; it has {', '.join(route.targets)}.",
                code="no_such_target",
                param="target",
            )
        weights = {model: float(model == target) for model in route.targets}
        await self.set_route(caller, name, route.model_copy(update={"targets": weights}))

    async def roll_back(self, caller: Caller, name: str) -> None:
        """Bring a route back to what it was before it was last set.

        Raises:
            NotFoundError: it was not set while the server ran.
        """
        async with self._sessions() as session:
            rows = await last_definitions(session, kind="route", name=name, limit=2)
        if not rows:
            raise _no("route", name)
        spec = rows[1].spec if len(rows) == 2 else None
        await self._write(caller, "route", name, before=rows[0].spec, after=spec)

    async def _write(
        self,
        caller: Caller,
        kind: Kind,
        name: str,
        *,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> None:
        async with self._sessions.begin() as session:
            await add_definition(session, kind=kind, name=name, spec=after)
            action = f"{kind}.{'delete' if after is None else 'set'}"
            await note(session, caller, action, f"{kind}:{name}", before, after)
        await self.load()

    def _refuse_settled(self, name: str) -> None:
        if name not in self._own_models and any(m.name == name for m in self._models.all()):
            raise ConflictError(
                f"The model {name!r} is in the server's configuration; change it there.",
                code="model_exists",
            )


def _read(
    shape: type[Spec], found: Iterable[Definition], kind: Kind, known: Mapping[str, Spec]
) -> dict[str, Spec]:
    """Read specs by name; one that a newer server wrote may be unreadable, and changes nothing."""
    specs: dict[str, Spec] = {}
    for row in found:
        if row.kind != kind:
            continue
        try:
            specs[row.name] = shape.model_validate(row.spec)
        except ValidationError as error:
            fields = [".".join(map(str, problem["loc"])) for problem in error.errors()]
            log.error("definition_unreadable", kind=kind, name=row.name, fields=fields)
            if row.name in known:
                specs[row.name] = known[row.name]
    return specs


def _refuse_variables(caller: Caller, spec: ModelSettings) -> None:
    named = spec.api_key_env or any(v.startswith("env:") for v in spec.headers.values())
    lacking = next((scope for scope in ADMIN_SCOPES if not caller.may(scope)), None)
    if named and lacking:
        raise PermissionDeniedError(
            "Variables hold keys, which the model's server is sent: they are named by full admins"
            f" alone; you lack the scope `{lacking}`.",
            code="missing_scope",
        )


def _json(spec: ModelSettings | RouteSettings | None) -> dict[str, Any] | None:
    return None if spec is None else spec.model_dump(mode="json", exclude_defaults=True)


def _no(kind: Kind, name: str) -> NotFoundError:
    return NotFoundError(
        f"There is no {kind} {name!r} that could be changed here.", code="not_found"
    )
