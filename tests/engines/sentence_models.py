"""Small sentence encoders, made on the spot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "a"]
TABLE: NDArray[np.float32] = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)


def write_tokenizer(folder: Path, *, special: bool = True) -> None:
    """Write a tokenizer of eight words, which pads and cuts to 3 as if for training."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.enable_padding(length=3)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_graph(
    folder: Path,
    *,
    output: str = "last_hidden_state",
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    kind: int = TensorProto.INT64,
) -> None:
    """Write a graph that looks each token up in `TABLE`; `sentence_embedding` takes the first."""
    write_json(folder / "tokenizer_config.json", {"model_max_length": 16})
    nodes: list[NodeProto] = [helper.make_node("Gather", ["table", "input_ids"], ["states"])]
    shape: list[Any] = ["batch", "length", 4]
    if output == "sentence_embedding":
        nodes.append(helper.make_node("Gather", ["states", "first"], [output], axis=1))
        shape = ["batch", 4]
    else:
        nodes.append(helper.make_node("Identity", ["states"], [output]))
    constants = [
        numpy_helper.from_array(TABLE, "table"),
        numpy_helper.from_array(np.array(0), "first"),
    ]
    given = [helper.make_tensor_value_info(name, kind, ["batch", "length"]) for name in inputs]
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(nodes, "lookup", given, [made], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def write_json(path: Path, content: Any) -> None:
    """Write a configuration file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
