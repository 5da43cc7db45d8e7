import io
import json
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from galley.engines.weights import WeightsError, read_safetensors, read_torch_pickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Storage:
    """Stands for numbers that follow the pickle."""

    def __init__(self, key: str, size: int, kind: str = "FloatStorage") -> None:
        self.key, self.size, self.kind = key, size, kind


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any) -> None:
        self.arguments = (storage, offset, shape, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.size, None)
        return None


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file as torch did before 1.6; pickling needs the names that it writes to exist."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for module, name in (
        (torch, "FloatStorage"),
        (torch, "LongStorage"),
        (torch, "HalfStorage"),
        (utils, "_rebuild_tensor_v2"),
    ):
        made = type(name, (), {"__module__": module.__name__, "__qualname__": name})
        setattr(module, name, made)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def write(state: Any, *storages: tuple[str, Any], protocol: int = 2) -> Path:
        file = io.BytesIO()
        for part in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(part, file, protocol)
        TorchPickler(file, protocol).dump(state)
        pickle.dump([key for key, _ in storages], file, protocol)
        for _, numbers in storages:
            file.write(len(numbers).to_bytes(8, "little") + numbers.tobytes())
        path = tmp_path / "weights.pth"
        path.write_bytes(file.getvalue())
        return path

    return write


def floats(*numbers: float) -> Any:
    return np.array(numbers, "<f4")


def test_tensors_of_a_legacy_file_come_back_by_name(write: Write) -> None:
    one = Tensor(Storage("0", 6), 0, (2, 3), (3, 1))
    turned = Tensor(Storage("0", 6), 1, (2,), (3,))
    count = Tensor(Storage("1", 1, "LongStorage"), 0, (), ())
    state = OrderedDict(one=one, turned=turned, count=count)
    path = write(state, ("0", floats(1, 2, 3, 4, 5, 6)), ("1", np.array([7], "<i8")))

    weights = read_torch_pickle(path)

    assert weights["one"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert weights["turned"].tolist() == [2, 5]
    assert weights["count"] == 7


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr"])
def test_a_pickle_that_wants_to_run_something_is_refused_by_name(
    name: str, protocol: int, write: Write, tmp_path: Path
) -> None:
    module, _, function = name.partition(".")
    mark = tmp_path / "was-run"

    class Evil:
        def __reduce__(self) -> Any:
            return getattr(sys.modules[module], function), (f"touch {mark}",)

    path = write({"weight": Evil()}, protocol=protocol)

    # Pickles name the module that a function really lives in, old ones by its old name.
    with pytest.raises(WeightsError, match=rf"({module}|posix|nt|__builtin__)\.{function}, which"):
        read_torch_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (2,), (1, 1)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (2,), (1 << 62,)),
        (1 << 70, (1,), (1,)),
        (0.0, (2,), (1,)),
        (0, ("2",), (1,)),
        (0, None, (1,)),
        (True, (1,), (1,)),
    ],
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(
    offset: Any, shape: Any, stride: Any, write: Write
) -> None:
    path = write(
        {"weight": Tensor(Storage("0", 4), offset, shape, stride)}, ("0", floats(1, 2, 3, 4))
    )

    with pytest.raises(WeightsError, match=r"weights\.pth"):
        read_torch_pickle(path)


@pytest.mark.parametrize(
    "state",
    [
        {"weight": 1},
        [Tensor(Storage("0", 1), 0, (1,), (1,))],
        {"weight": Tensor("no storage", 0, (1,), (1,))},
        {"weight": Tensor(Storage("0", 1, "HalfStorage"), 0, (1,), (1,))},
        {"weight": Tensor(Storage("elsewhere", 1), 0, (1,), (1,))},
        {"weight": Tensor(Storage("0", 1 << 60), 0, (1,), (1,))},
    ],
)
def test_what_is_not_a_whole_state_dict_is_refused(state: Any, write: Write) -> None:
    path = write(state, ("0", floats(1)))

    with pytest.raises(WeightsError):
        read_torch_pickle(path)


def test_a_storage_longer_than_the_file_is_refused_without_reserving_it(write: Write) -> None:
    path = write({"weight": Tensor(Storage("0", 1 << 55), 0, (1,), (1,))}, ("0", floats(1)))
    content = bytearray(path.read_bytes())
    content[-12:-4] = (1 << 55).to_bytes(8, "little")
    path.write_bytes(content)

    with pytest.raises(WeightsError, match="cut off"):
        read_torch_pickle(path)


@pytest.mark.parametrize("length", [0, 1, 20, 60, 200, -1, -5])
def test_a_legacy_file_that_is_cut_off_is_refused(length: int, write: Write) -> None:
    path = write({"weight": Tensor(Storage("0", 4), 0, (4,), (1,))}, ("0", floats(1, 2, 3, 4)))
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(WeightsError):
        read_torch_pickle(path)


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "memo is too large"),  # two billion memo slots
        (b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"x.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),  # a number of two billion bytes
        (b"garbage", "damaged"),
        (b"PK\x03\x04", "zip archive"),
    ],
)
def test_a_pickle_that_would_take_all_memory_is_refused(
    attack: bytes, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(attack)

    with pytest.raises(WeightsError, match=complaint):
        read_torch_pickle(path)


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(kind: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_of_a_safetensors_file_come_back_by_name(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<f4")
    halves = (numbers.view("<u4") >> 16).astype("<u2")  # bfloat16 is float32's upper half
    header = {
        "__metadata__": {"format": "pt"},
        "full": entry("F32", [2, 3], 0, 24),
        "brain": entry("BF16", [6], 24, 36),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, numbers.tobytes() + halves.tobytes()))

    weights = read_safetensors(path)

    assert weights["full"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights["brain"].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(weights) == {"full", "brain"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (1 << 60).to_bytes(8, "little"),
        safetensors(b"not json"),
        safetensors(b"[1, 2]"),
        safetensors(b"[" * 100_000),
        safetensors({"w": 3}),
        safetensors({"w": entry("F8_E4M3", [1], 0, 1)}, b"1"),
        safetensors({"w": entry("F32", [2], 0, 8)}, b"1234"),
        safetensors({"w": entry("F32", [1], -4, 0)}, b"1234"),
        safetensors({"w": entry("F32", [-1, -1], 0, 4)}, b"1234"),
        safetensors({"w": entry("F32", [1 << 40, 1 << 40], 0, 4)}, b"1234"),
        safetensors({"w": entry("F32", ["1"], 0, 4)}, b"1234"),
        safetensors({"w": entry("F32", [1], 0.5, 4)}, b"1234"),
        safetensors({"w": {"dtype": "F32"}}, b"1234"),
    ],
)
def test_a_damaged_safetensors_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(WeightsError):
        read_safetensors(path)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        read_safetensors(tmp_path / "model.safetensors")


def test_reading_a_pickle_leaves_nothing_behind_for_the_next(write: Write, tmp_path: Path) -> None:
    path = write(OrderedDict(w=Tensor(Storage("0", 1), 0, (1,), (1,))), ("0", floats(1)))

    first, second = read_torch_pickle(path), read_torch_pickle(path)

    assert first["w"].tolist() == second["w"].tolist() == [1]
    assert os.listdir(tmp_path) == ["weights.pth"]
