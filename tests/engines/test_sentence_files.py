from pathlib import Path
from typing import Any

import pytest

from galley.engines.sentence_files import SentenceFiles
from galley.engines.weights import WeightsError
from tests.engines.sentence_models import write_json, write_tokenizer

BERT = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT's folder, all but the weights themselves."""
    write_tokenizer(tmp_path)
    write_json(tmp_path / "config.json", BERT)
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def test_a_berts_shape_is_read_from_its_configuration(folder: Path) -> None:
    shape = SentenceFiles.read(folder).bert_shape()

    assert (shape.layers, shape.heads, shape.epsilon, shape.pooling) == (6, 12, 1e-12, "mean")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_hidden_layers": "many"}, "many"),
    ],
)
def test_what_is_no_plain_bert_is_refused_with_the_reason(
    change: dict[str, Any], complaint: str, folder: Path
) -> None:
    write_json(folder / "config.json", BERT | change)

    with pytest.raises(WeightsError, match=complaint):
        SentenceFiles.read(folder).bert_shape()


def test_a_dense_layer_after_pooling_is_refused(folder: Path) -> None:
    write_json(folder / "modules.json", [{"type": "sentence_transformers.models.Dense"}])

    with pytest.raises(WeightsError, match="dense layer"):
        SentenceFiles.read(folder).bert_shape()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 512),
        ({"sentence_bert_config.json": {"max_seq_length": 128}}, 128),
        ({"tokenizer_config.json": {"model_max_length": 256}}, 256),
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, 512),
        ({"config.json": {"model_type": "bert"}}, 3),
    ],
)
def test_the_longest_input_is_the_least_that_a_file_says(
    files: dict[str, Any], expected: int, folder: Path
) -> None:
    for name, content in files.items():
        write_json(folder / name, content)

    assert SentenceFiles.read(folder).pieces.max_tokens == expected


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"embedding_dimension": 4, "pooling_mode": "mean"}, "mean"),
        ({"embedding_dimension": 4, "pooling_mode": "cls"}, "cls"),
    ],
)
def test_pooling_is_read_from_its_file(
    pooling: dict[str, Any], expected: str, folder: Path
) -> None:
    write_json(folder / "1_Pooling" / "config.json", pooling)

    assert SentenceFiles.read(folder).pooling == expected


def test_other_pooling_is_refused_by_name(folder: Path) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})

    with pytest.raises(WeightsError, match="pools by max; known are mean and cls"):
        SentenceFiles.read(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\udc80"])
def test_a_damaged_file_is_refused_by_name(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, errors="surrogateescape")

    with pytest.raises(WeightsError, match=name):
        SentenceFiles.read(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()

    with pytest.raises(WeightsError, match=name):
        SentenceFiles.read(folder)
