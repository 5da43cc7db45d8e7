"""All that an operator can set, in one place: `GALLEY_*` first, then the TOML file.

`origins.py` reads them and says where each came from; `docs/configuration.md` lists them all.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Self, get_args

import platformdirs
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from galley.core.catalogue import EMBEDDED_MODELS, Kind, ModelSettings, RouteSettings
from galley.core.issuers import IssuerSettings

PREFIX = "GALLEY_"
# Read by the command line and the client, not by the server.
CLIENT_VARIABLES = frozenset({"GALLEY_API_KEY", "GALLEY_BASE_URL"})


class SettingsError(ValueError):
    """What was set cannot be used; the message says what to change and where."""


class Settings(BaseSettings):
    """Read once at start, then frozen. Every default works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    trusted_proxies: str | None = Field(
        default=None,
        description="Proxies whose X-Forwarded-For and -Proto are believed: "
        "addresses or networks, by commas.",
    )
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("galley", appauthor=False),
        description="Database, models and keys. Created on the first start.",
    )
    models_dir: Path = Field(
        default=Path(), description="Weights; unset: `models` in the data directory."
    )
    config: Path = Field(
        default=Path(), description="TOML file; unset: `galley.toml` in the data dir."
    )
    database_url: SecretStr = Field(
        default=SecretStr(""), description="SQLAlchemy URL; unset: SQLite in the data directory."
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Servers that share limits need it. Unset: this process."
    )
    redis_lost: Literal["local", "open", "closed"] = Field(
        default="local",
        description="Limits without Redis: every server its own, none, or nobody is let in.",
    )
    bootstrap_key: SecretStr | None = Field(
        default=None, description="The first admin's API key. Unset: made and printed once."
    )
    jwt_secret: SecretStr | None = Field(
        default=None,
        description="Signs access tokens. Unset: made and kept in the data directory.",
    )
    access_token_minutes: int = Field(
        default=15, ge=1, le=1440, description="How long an access token is good, in minutes."
    )
    refresh_token_days: int = Field(
        default=30, ge=1, le=366, description="How long a login lasts that is not used, in days."
    )
    issuers: dict[str, IssuerSettings] = Field(
        default_factory=dict[str, IssuerSettings],
        description="Identity providers whose tokens are accepted, by name.",
    )
    retention_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description="How long single requests are kept, in days; 0 keeps them all.",
    )
    response_retention_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="How long stored responses are kept, in days; 0 keeps them all.",
    )
    receipt_retention_days: int = Field(
        default=7,
        ge=0,
        le=36_500,
        description="How long receipts are kept, in days; 0 keeps them as long as requests.",
    )
    job_retention_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="How long jobs and batches are kept that have ended, in days; 0 keeps all.",
    )
    job_concurrency: int = Field(
        default=4, ge=1, le=64, description="Jobs that one server or worker does at once."
    )
    job_user_concurrency: int = Field(
        default=2, ge=1, le=1000, description="Jobs of one user that run at the same time."
    )
    job_queue: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Jobs of one user that wait; more are refused with 429.",
    )
    broker_url: SecretStr | None = Field(
        default=None, description="Celery's broker, where workers do the jobs. Unset: this process."
    )
    webhook_networks: str | None = Field(
        default=None,
        description="Own networks that webhooks may go to, by http too: "
        "addresses or networks, by commas.",
    )
    embedded_models: bool = Field(
        default=True, description="Serve the three models that come with Galley."
    )
    embedded_documents: bool = Field(
        default=True, description="Let retrieval search Galley's own documentation."
    )
    models: dict[str, ModelSettings] = Field(
        default_factory=dict[str, ModelSettings], description="More models, by name."
    )
    routes: dict[str, RouteSettings] = Field(
        default_factory=dict[str, RouteSettings],
        description="Names that several models answer to, by weight and with fallbacks.",
    )
    cache_bytes: int = Field(
        default=64_000_000,
        ge=0,
        le=1_000_000_000_000,
        description="Memory for answers that may be used again, in bytes; 0 keeps none.",
    )
    cache_ttl: float = Field(
        default=3600.0,
        gt=0,
        le=31_536_000,
        description="How long answers may be used again, in seconds.",
    )
    request_timeout: float = Field(
        default=120.0, gt=0, le=3600, description="Longest model call, in seconds; then 504."
    )
    body_limit: int = Field(
        default=10_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Largest JSON request, in bytes.",
    )
    image_body_limit: int = Field(
        default=64_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="The same for image routes, in bytes.",
    )
    file_limit: int = Field(
        default=512_000_000,
        ge=1_000,
        le=10_000_000_000,
        description="Largest file that can be uploaded, in bytes.",
    )
    file_quota: int = Field(
        default=10_000_000_000,
        ge=0,
        le=1_000_000_000_000_000,
        description="What the files of one user may take together, in bytes.",
    )
    header_timeout: float = Field(
        default=10.0, gt=0, le=600, description="Longest wait for a request's headers, in seconds."
    )
    body_timeout: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Longest pause within a request's body, in seconds; a trickle is one.",
    )
    keep_alive_timeout: float = Field(
        default=75.0,
        gt=0,
        le=3600,
        description="How long an idle connection stays open, in seconds.",
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=1_000_000,
        description="Connections at once; more are refused with 503.",
    )
    max_in_flight: int = Field(
        default=1000, ge=1, le=1_000_000, description="Requests at once that are too many for free."
    )
    memory_limit: int = Field(
        default=0, ge=0, le=10**15, description="Most memory, in bytes; 0: nine tenths of it all."
    )
    startup_timeout: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Longest wait for PostgreSQL and Redis, in seconds.",
    )
    grace_period: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="How long answers may finish after SIGTERM, in seconds.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://.",
        description="Base URL of an OpenTelemetry collector; traces go to its /v1/traces.",
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="auto: pretty on a terminal, JSON lines elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line written."
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Put what was not placed on its own into the data directory."""
        data_dir = _data_dir(values)
        defaults: dict[str, Any] = {
            "data_dir": data_dir,
            "models_dir": data_dir / "models",
            "config": data_dir / "galley.toml",
            "database_url": f"sqlite+aiosqlite:///{data_dir / 'galley.db'}",
        }
        return defaults | values

    @field_validator("trusted_proxies", "webhook_networks")
    @classmethod
    def _are_addresses(cls, proxies: str | None) -> str | None:
        for proxy in proxies.split(",") if proxies else ():
            ip_network(proxy.strip(), strict=False)  # its ValueError says which one is no address
        return proxies

    @model_validator(mode="after")
    def _models_fit_together(self) -> Self:
        for name in self.models:
            check_model_name(name)
        for kind in get_args(Kind):
            named = [n for n, m in self.models.items() if m.kind == kind and m.default]
            if len(named) > 1:
                raise ValueError(f"{' and '.join(named)} are both the default {kind} model")
        for name, route in self.routes.items():
            check_route_name(name)
            for model in route.models:
                if model not in self.catalogue:
                    raise ValueError(f"route {name!r} leads to {model!r}, which is no model here")
            if len({self.catalogue[model].kind for model in route.models}) > 1:
                raise ValueError(f"the models of the route {name!r} do not all do the same")
        return self

    @property
    def catalogue(self) -> dict[str, ModelSettings]:
        """Every model by name; of each kind, the default comes first.

        Where no model says that it is the default, the embedded one is.
        """
        named = {**EMBEDDED_MODELS} if self.embedded_models else {}
        named |= self.models
        return dict(sorted(named.items(), key=lambda item: not item[1].default))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then secret files, then the TOML file."""
        given = {**env_settings(), **init_settings()}
        path = toml_path(given)
        if given.get("config") and not path.is_file():
            raise SettingsError(f"GALLEY_CONFIG names {path}, and there is no such file.")
        secret_files = _SecretFiles(settings_cls)
        return init_settings, env_settings, secret_files, _TomlFile(settings_cls, path)


class _TomlFile(TomlConfigSettingsSource):
    """The TOML file, with a word on every key that nobody knows."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            found = super()._read_file(file_path)
        except OSError as error:
            raise SettingsError(f"{file_path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"{file_path} is not valid TOML: {error}") from error
        refuse_unknown(found, Settings.model_fields, str(file_path))
        for group, shape in (
            ("models", ModelSettings),
            ("routes", RouteSettings),
            ("issuers", IssuerSettings),
        ):
            for name, table in found.get(group, {}).items():
                if isinstance(table, dict):
                    where = f"{file_path} [{group}.{name}]"
                    refuse_unknown(table, shape.model_fields, where)
        return found


class _SecretFiles(PydanticBaseSettingsSource):
    """`GALLEY_<SECRET>_FILE`: the value is the file's content, less its last line break."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the base class asks for it; `__call__` does the work

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in secret_fields():
            if path := os.environ.get(f"{PREFIX}{name.upper()}_FILE"):
                try:
                    found[name] = Path(path).expanduser().read_text().rstrip("\r\n")
                except OSError as error:
                    raise SettingsError(f"{PREFIX}{name.upper()}_FILE: {error}") from error
        return found


def secret_fields() -> list[str]:
    """Name the settings that are secrets: never shown, and readable from files."""
    return [n for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)]


def check_model_name(name: str) -> None:
    """Refuse what requests and URLs could not name.

    Raises:
        ValueError: it says what a name may be.
    """
    if not re.fullmatch(r"[\w.:@+-]+(/[\w.:@+-]+)*", name, re.ASCII) or len(name) > 128:
        raise ValueError(
            f"{name!r} cannot name a model: use letters, digits and any of _ . : @ + - /, "
            "128 at most, without spaces"
        )
    if name.startswith("galley/"):
        raise ValueError(f"{name!r} cannot name a model: galley/... stands for the default models")


def check_route_name(name: str) -> None:
    """Refuse what cannot name a route: a model's name, or the beginning of one and `*`, or `*`.

    Raises:
        ValueError: it says what a name may be.
    """
    if name != "*":
        check_model_name(name.removesuffix("*").rstrip("/") if name.endswith("*") else name)


def toml_path(given: Mapping[str, Any]) -> Path:
    """Where the TOML file is, or would be, going by `config` and `data_dir` of `given`."""
    return Path(given.get("config") or _data_dir(given) / "galley.toml").expanduser()


def _data_dir(given: Mapping[str, Any]) -> Path:
    if found := given.get("data_dir"):
        return Path(found).expanduser().absolute()
    return platformdirs.user_data_path("galley", appauthor=False)


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse the first name of `given` that is not `known`, with the nearest that is.

    Raises:
        SettingsError: there is one.
    """
    nearest = {name.lower(): name for name in known}
    for name in given:
        if name not in nearest.values():
            (close,) = difflib.get_close_matches(name.lower(), nearest, n=1, cutoff=0.0)
            raise SettingsError(
                f"{where}: no setting is named {name!r}. Nearest: {nearest[close]!r}."
            )
