"""Models and routes, as admins name them while the server runs."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from galley.core.catalogue import Kind, ModelSettings, RouteSettings
from galley.core.settings import check_model_name, check_route_name
from galley.schemas.base import Reply, Request

Origin = Literal["settings", "admin"]

_NAMES_A_KEY = re.compile(r"(?!GALLEY_)[A-Z0-9_]*(KEY|TOKEN)")


def _variable(header: str) -> str | None:
    return header.removeprefix("env:") if header.startswith("env:") else None


def _checked_model(name: str) -> str:
    check_model_name(name)
    return name


def _checked_route(name: str) -> str:
    check_route_name(name)
    return name


ModelName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_checked_model)]
RouteName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_checked_route)]


class ModelSpec(ModelSettings):
    """A model of another server; what needs files on this one is for its operator to name."""

    @model_validator(mode="after")
    def _is_elsewhere(self) -> Self:
        if not self.remote:
            raise ValueError(
                "only models of other servers (http://... or https://...) are added while the "
                "server runs; `galley models add` adds others to its configuration"
            )
        if self.default:
            raise ValueError("the default models are set in the configuration")
        if self.api_key_file is not None:
            raise ValueError("api_key_file is set in the configuration; use api_key_env here")
        named = [self.api_key_env, *map(_variable, self.headers.values())]
        if not all(name is None or _NAMES_A_KEY.fullmatch(name) for name in named):
            raise ValueError(
                "api_key_env, and env: in headers, name a variable that ends in KEY or TOKEN, and"
                " none of Galley's"
            )
        return self


class ReplicaReply(Reply):
    breaker: Literal["closed", "open", "half_open"] = Field(
        description="open: it failed and is given a rest."
    )
    busy: int = Field(description="Requests that it is at work on.")
    problem: str | None


class ModelState(Reply):
    """A model, for admins."""

    name: str
    kind: Kind
    origin: Origin = Field(description="`admin`: added while the server ran.")
    source: str = Field(description="Without folders and credentials.")
    state: Literal["loading", "loaded", "failed"]
    error: str | None
    replicas: list[ReplicaReply]


class ModelStateList(Reply):
    object: Literal["list"] = "list"
    data: list[ModelState]


class RouteReply(RouteSettings, Reply):
    name: str
    origin: Origin = Field(description="`admin`: set while the server ran; it goes first.")


class RouteList(Reply):
    object: Literal["list"] = "list"
    data: list[RouteReply]


class Promotion(Request):
    target: str = Field(max_length=128, description="The target that gets everybody.")
