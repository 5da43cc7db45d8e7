"""What a server takes of its machine, for Prometheus. Read on the thread that writes the page.

The names `process_*` are those that Prometheus' own clients have, here on every platform.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from galley import __version__
from galley.core.gpu import Gpus
from galley.core.memory import usage


def allow_open_files() -> None:
    """Let this process open as many files as it may: every connection is one."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # "any number", which not every kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class ProcessCollector(Collector):
    """This process, and its children: the models' engines, and whoever reads files."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._children_s: dict[psutil.Process, float] = {}
        self._total_s = 0.0

    def collect(self) -> Iterator[Metric]:
        yield from self._own()
        memory, total_s = self._children()
        yield GaugeMetricFamily(
            "galley_engine_resident_memory_bytes", "Resident memory of child processes.", memory
        )
        yield CounterMetricFamily(
            "galley_engine_cpu_seconds", "CPU time of child processes.", total_s
        )
        info = GaugeMetricFamily(
            "galley_build_info", "Which Galley this is.", labels=["version", "python"]
        )
        info.add_metric([__version__, sys.version.partition(" ")[0]], 1)
        yield info

    def _own(self) -> Iterator[Metric]:
        rss, used_s = usage(self._process)
        yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time.", used_s)
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", rss)
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When it began, in seconds of the epoch.",
            self._process.create_time(),
        )  # fmt: skip
        if sys.platform != "win32":
            import resource

            yield GaugeMetricFamily(
                "process_open_fds", "Open files and connections.", self._process.num_fds()
            )
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            yield GaugeMetricFamily("process_max_fds", "How many there may be.", most)

    def _children(self) -> tuple[int, float]:
        """Their memory in bytes, and all CPU seconds that were seen of them.

        The seconds of those that ended are kept, or the sum would fall with them.
        """
        memory, seen = 0, dict[psutil.Process, float]()
        for child in self._process.children(recursive=True):
            rss, used_s = usage(child)
            memory += rss
            self._total_s += max(0.0, used_s - self._children_s.get(child, 0.0))
            seen[child] = used_s
        self._children_s = seen
        return memory, self._total_s


class DiskCollector(Collector):
    """The disk that `folder` is on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        try:
            disk = shutil.disk_usage(self._folder)
        except OSError:  # it is gone; what then fails says so itself
            return
        yield GaugeMetricFamily(
            "galley_disk_free_bytes", "Free space where the data directory is.", disk.free
        )
        yield GaugeMetricFamily("galley_disk_size_bytes", "All space there.", disk.total)


class GpuCollector(Collector):
    """The GPUs of NVIDIA, where there are any."""

    def __init__(self) -> None:
        self._gpus = Gpus.open()

    def collect(self) -> Iterator[Metric]:
        busy = GaugeMetricFamily(
            "galley_gpu_utilization_ratio", "Part of the time that a GPU worked.", labels=["gpu"]
        )
        used = GaugeMetricFamily(
            "galley_gpu_memory_used_bytes", "Memory in use, by anybody.", labels=["gpu"]
        )
        size = GaugeMetricFamily("galley_gpu_memory_size_bytes", "All memory.", labels=["gpu"])
        for number, gpu in enumerate(self._gpus.look() if self._gpus else ()):
            busy.add_metric([str(number)], gpu.busy)
            used.add_metric([str(number)], gpu.used_bytes)
            size.add_metric([str(number)], gpu.size_bytes)
        yield from (busy, used, size)
