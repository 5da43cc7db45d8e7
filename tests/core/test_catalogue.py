"""What can be said of a model on another server."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from galley.core.catalogue import ModelSettings


def far(**more: Any) -> ModelSettings:
    return ModelSettings.model_validate({"kind": "chat", "source": "http://box/v1"} | more)


def test_the_key_is_a_variables_value_or_a_files_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOX_KEY", "from-variable")
    file = tmp_path / "key"
    file.write_text("from-file\n")

    keys = [far().api_key, far(api_key_env="BOX_KEY").api_key, far(api_key_file=file).api_key]

    assert keys == [None, "from-variable", "from-file"]


def test_a_key_that_is_not_where_it_should_be_is_missed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GALLEY_TEST_NO_KEY is not set"):
        _ = far(api_key_env="GALLEY_TEST_NO_KEY").api_key
    with pytest.raises(ValueError, match="api_key_file names no text file"):
        _ = far(api_key_file=tmp_path / "none").api_key


def test_headers_may_take_their_values_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGANISATION", "acme")
    model = far(headers={"X-Org": "env:ORGANISATION", "x-plain": "envelope"})

    assert model.sent_headers == {"X-Org": "acme", "x-plain": "envelope"}
    with pytest.raises(ValueError, match="NOT_THERE is not set"):
        _ = far(headers={"x-org": "env:NOT_THERE"}).sent_headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Authorization": "Bearer x"}},
        {"headers": {"X-Api-Key": "x"}},
        {"headers": {"HOST": "x"}},
        {"headers": {"content-length": "3"}},
        {"headers": {"x org": "x"}},
        {"headers": {"x-org": "a\r\nhost: b"}},
        {"api_key_env": "A", "api_key_file": "/b"},
        {"protocol": "anthropic", "kind": "embeddings"},
        {"protocol": "anthropic", "source": "path:/m.gguf"},
        {"engine": "torch"},
        {"engine": "torch", "source": "path:/m", "mmproj": "path:/eyes.gguf"},
        {"engine": "onnx", "source": "path:/m"},
        {"connect_timeout": 0},
        {"idle_timeout": 100_000},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        far(**wrong)


@pytest.mark.parametrize(
    ("model", "sees"),
    [
        ({"source": "http://box/v1"}, False),
        ({"source": "http://box/v1", "vision": True}, True),
        ({"source": "path:/m.gguf"}, False),
        ({"source": "path:/m.gguf", "mmproj": "hf:org/repo/mmproj.gguf"}, True),
    ],
)
def test_a_model_sees_that_has_a_projector_or_is_said_to(model: dict[str, Any], sees: bool) -> None:
    assert far(**model).sees is sees


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "http://box/v1", "mmproj": "path:/mmproj.gguf"},
        {"source": "path:/model", "kind": "embeddings", "mmproj": "path:/mmproj.gguf"},
        {"source": "path:/m.gguf", "mmproj": "http://box/mmproj.gguf"},
        {"source": "path:/m.gguf", "mmproj": ""},
        {"source": "path:/m.gguf", "vision": True},
    ],
)
def test_what_cannot_see_is_not_said_to(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        far(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "path:/m.gguf", "tools": False},
        {"source": "http://box/v1", "kind": "embeddings", "tools": False},
    ],
)
def test_only_chat_models_on_other_servers_are_said_to_know_no_tools(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        far(**wrong)


@pytest.mark.parametrize("source", ["path:/m.gguf", "package:reranker/model", "hf:org/repo/model"])
def test_models_that_rerank_are_on_other_servers(source: str) -> None:
    with pytest.raises(ValidationError, match="on other servers"):
        far(kind="rerank", source=source)

    assert far(kind="rerank").remote


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "chat", "source": "path:/model.gguf"},
        {"kind": "embeddings", "source": "http://far/v1"},
        {"kind": "chat", "source": "http://far/v1", "protocol": "anthropic"},
    ],
    ids=["here", "embeddings", "anthropic"],
)
def test_fields_are_passed_on_only_to_chat_models_that_speak_openai(model: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="pass_fields"):
        ModelSettings.model_validate(model | {"pass_fields": ["user"]})
