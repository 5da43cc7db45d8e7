"""Read model weights with numpy alone: safetensors files and torch's legacy pickles.

Nothing in a file is trusted: a pickle may name four things and no others, and every size,
offset and stride is checked against the bytes that are there before an array is made of it.
"""

import io
import json
import math
import pickle
import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[Any]]

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # numpy has no bfloat16: read as bits, then widened
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_MAX_HEADER = 100_000_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# The C unpickler allocates as many slots as the largest memo index says.
_MAX_MEMO = 1_000_000


class WeightsError(ValueError):
    """A model's files cannot be used; the message names the file and what is wrong with it."""


def read_safetensors(path: Path) -> Weights:
    """Return every tensor by name, as read-only views of the file.

    Raises:
        WeightsError: the file is cut off, damaged, or holds a type that is not supported.

    Source: the safetensors format, huggingface.co/docs/safetensors.
    """
    try:
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        size = int(raw[:8].view("<u8")[0])
        if size > min(_MAX_HEADER, len(raw) - 8):
            raise WeightsError(f"{path.name} is cut off: its header has {size} bytes")
        header: Any = json.loads(bytes(raw[8 : 8 + size]))
        data = raw[8 + size :]
        return {n: _tensor(data, info) for n, info in header.items() if n != "__metadata__"}
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path.name} is not a safetensors file, or damaged: {error}") from error


def read_torch_pickle(path: Path) -> Weights:
    """Return every tensor of a state dict that `torch.save` wrote before torch 1.6.

    Raises:
        WeightsError: the file names something that is not allowed, or is damaged.
    """
    content = path.read_bytes()
    if content.startswith(b"PK"):
        raise WeightsError(f"{path.name} is a zip archive of torch: save it as safetensors")
    try:
        return _read_legacy(io.BytesIO(content))
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        MemoryError,
        RecursionError,
    ) as error:
        raise WeightsError(
            f"{path.name} is not a legacy torch file, or damaged: {error}"
        ) from error


def _tensor(data: NDArray[np.uint8], info: dict[str, Any]) -> NDArray[Any]:
    if info["dtype"] not in _SAFETENSORS_TYPES:
        raise WeightsError(f"tensors of type {info['dtype']} are not supported")
    kind = np.dtype(_SAFETENSORS_TYPES[info["dtype"]])
    begin, end = info["data_offsets"]
    shape = info["shape"]
    if not 0 <= begin <= end <= len(data) or min(shape, default=0) < 0:
        raise WeightsError("a tensor lies outside the file")
    if end - begin != math.prod(shape) * kind.itemsize:
        raise WeightsError("a tensor's shape and its bytes do not match")
    array: NDArray[Any] = data[begin:end].view(kind).reshape(shape)
    if info["dtype"] == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return array


@dataclass(slots=True)
class _Storage:
    dtype: str
    size: int
    data: NDArray[Any] | None = None


@dataclass(slots=True)
class _Tensor:
    """A tensor whose numbers come later in the file; a pickle may have put anything in it."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any

    def array(self) -> NDArray[Any]:
        numbers = (self.offset, *self.shape, *self.stride)
        if (
            not isinstance(self.storage, _Storage)
            or self.storage.data is None
            or len(self.shape) != len(self.stride)
            or any(type(number) is not int or number < 0 for number in numbers)
        ):
            raise WeightsError("a tensor is malformed")
        data = self.storage.data
        count = math.prod(self.shape)
        last = self.offset + sum(
            (size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)
        )
        if count > len(data) or (count and last >= len(data)):
            raise WeightsError("a tensor reaches beyond its storage")
        if not count:
            return np.empty(self.shape, data.dtype)
        steps = [step * data.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps)
        return view.copy()


class _Unpickler(pickle.Unpickler):
    """Knows the four names that a state dict of floats needs; any other is refused."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[Any, _Storage] = {}
        self._names: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild,
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._names[module_name, global_name]
        except KeyError:
            raise WeightsError(
                f"it wants to load {module_name}.{global_name}, which is refused"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, size = pid[:5]
        if kind != "storage" or dtype not in ("<f4", "<i8") or any(pid[5:]):
            raise WeightsError("a storage is of a kind that is not supported")
        return self.storages.setdefault(key, _Storage(dtype, size))

    @staticmethod
    def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, shape, stride)


def _unpickler(file: io.BytesIO) -> _Unpickler:
    """Look through the next pickle, without running it, before it is handed over."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > _MAX_MEMO:
            raise WeightsError("its memo is too large")
    file.seek(start)
    return _Unpickler(file)


def _read_legacy(file: io.BytesIO) -> Weights:
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        if _unpickler(file).load() != expected:
            raise WeightsError("it is not a legacy torch file")
    _unpickler(file).load()  # about the machine that wrote it
    reader = _unpickler(file)
    state = reader.load()
    for key in _unpickler(file).load():
        _fill(reader.storages[key], file)
    if not isinstance(state, dict) or any(not isinstance(v, _Tensor) for v in state.values()):
        raise WeightsError("it holds more than tensors by name")
    return {str(name): tensor.array() for name, tensor in state.items()}


def _fill(storage: _Storage, file: io.BytesIO) -> None:
    count = int.from_bytes(file.read(8), "little")
    data = file.read(count * np.dtype(storage.dtype).itemsize)
    if count != storage.size or len(data) != count * np.dtype(storage.dtype).itemsize:
        raise WeightsError("it is cut off")
    storage.data = np.frombuffer(data, storage.dtype)
