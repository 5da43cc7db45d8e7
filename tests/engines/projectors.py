"""Eyes for a model that has none: a tiny CLIP with made-up weights, written as a GGUF file.

Source: GGUF specification, File structure; llama.cpp's names for the tensors of LLaVA.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE, PATCH, WIDTH = 64, 32, 32
TOKENS = (SIDE // PATCH) ** 2
"""What a picture takes of the context."""

_ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9


def write_projector(path: Path, *, embedding: int) -> Path:
    """Write a projector for a language model whose embeddings have so many floats."""
    said: dict[str, Any] = {
        "general.architecture": "clip",
        "general.alignment": _ALIGNMENT,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": WIDTH,
        "clip.vision.feed_forward_length": 2 * WIDTH,
        "clip.vision.block_count": 2,
        "clip.vision.projection_dim": embedding,
        "clip.vision.attention.head_count": 2,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.5, 0.5],
    }
    path.write_bytes(_gguf(said, _tensors(embedding)))
    return path


def _tensors(embedding: int) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "v.class_embd": (WIDTH,),
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": (TOKENS + 1, WIDTH),
        "v.pre_ln.weight": (WIDTH,),
        "v.pre_ln.bias": (WIDTH,),
        "mm.0.weight": (embedding, WIDTH),
        "mm.0.bias": (embedding,),
        "mm.2.weight": (embedding, embedding),
        "mm.2.bias": (embedding,),
    }
    for layer in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes[f"v.blk.{layer}.{name}.weight"] = (WIDTH, WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2", "ffn_down"):
            shapes[f"v.blk.{layer}.{name}.bias"] = (WIDTH,)
        for name in ("ln1", "ln2"):
            shapes[f"v.blk.{layer}.{name}.weight"] = (WIDTH,)
        shapes[f"v.blk.{layer}.ffn_down.weight"] = (WIDTH, 2 * WIDTH)
        shapes[f"v.blk.{layer}.ffn_up.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"v.blk.{layer}.ffn_up.bias"] = (2 * WIDTH,)
    return {n: (0.05 * draw.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


def _gguf(said: dict[str, Any], tensors: dict[str, NDArray[np.float32]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(said))
    head += b"".join(_text(key) + _value(value) for key, value in said.items())
    data = b""
    for name, tensor in tensors.items():
        head += _text(name) + struct.pack("<I", tensor.ndim)
        head += struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", 0, len(data))  # 0: of 32-bit floats
        data += _padded(tensor.tobytes())
    return _padded(head) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    floats = struct.pack(f"<{len(value)}f", *value)
    return struct.pack("<IIQ", _ARRAY, _FLOAT32, len(value)) + floats
