"""What NVIDIA's driver says of its GPUs, through its own library: there is nothing to install.

Source: NVIDIA, NVML API Reference Guide, Initialization and Device Queries.
"""

import ctypes
import sys
from typing import NamedTuple, Self

_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


class Gpu(NamedTuple):
    """One GPU now: `busy` from 0 to 1."""

    busy: float
    used_bytes: int
    size_bytes: int


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Gpus:
    """The GPUs that the driver shows this process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @classmethod
    def open(cls) -> Self | None:
        """Find them; None where there is no driver, or it does not work."""
        try:
            library = ctypes.CDLL(_LIBRARY)
            return cls(library) if library.nvmlInit_v2() == 0 else None
        except (OSError, AttributeError):  # no such library, or it is another one
            return None

    def look(self) -> list[Gpu]:
        """Return how they are; what cannot be told of one is 0."""
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return [self._gpu(number) for number in range(count.value)]

    def _gpu(self, number: int) -> Gpu:
        device, memory, work = ctypes.c_void_p(), _Memory(), _Utilization()
        self._library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device))
        self._library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        self._library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(work))
        return Gpu(work.gpu / 100, memory.used, memory.total)
