"""The page that Prometheus reads, and what it says of the process."""

import asyncio
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from galley.core.gpu import Gpus
from galley.core.metrics import Metrics
from galley.core.process import DiskCollector, GpuCollector, ProcessCollector

pytestmark = pytest.mark.anyio


async def test_what_is_watched_is_read_when_the_page_is_asked_for() -> None:
    metrics, found = Metrics(), {"a": 1.0}
    metrics.watch("galley_things", "Things.", "kind", lambda: found)

    before = await metrics.render()
    found |= {"a": 2.0, "b": 3.0}
    after = await metrics.render()

    assert b"# TYPE galley_things gauge\n" in before
    assert b'galley_things{kind="a"} 1.0\n' in before
    assert b'galley_things{kind="a"} 2.0\ngalley_things{kind="b"} 3.0\n' in after


async def test_a_name_that_ends_in_total_is_a_counters() -> None:
    metrics = Metrics()
    metrics.watch("galley_seen_total", "Seen.", ("what", "where"), lambda: {("x", "y"): 4})
    metrics.watch("galley_plain", "Without labels.", (), lambda: {(): 5})

    page = await metrics.render()

    assert b"# TYPE galley_seen_total counter\n" in page
    assert b'galley_seen_total{what="x",where="y"} 4.0\n' in page
    assert b"\ngalley_plain 5.0\n" in page


async def test_several_who_ask_at_once_all_get_a_page() -> None:
    metrics = Metrics()
    metrics.requests("chat", "m", "200").inc()

    pages = await asyncio.gather(*(metrics.render() for _ in range(5)))

    sample = b'galley_requests_total{endpoint="chat",model="m",status="200"} 1.0\n'
    assert all(sample in page for page in pages)


async def test_batches_of_the_ledger_are_timed_and_failed_ones_counted() -> None:
    metrics = Metrics()

    metrics.committed(0.002, True)
    metrics.committed(3.0, False)

    page = await metrics.render()
    assert b"galley_ledger_commit_duration_seconds_count 2.0\n" in page
    assert b"galley_ledger_commit_failures_total 1.0\n" in page


def value(collector: object, name: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(collector)  # pyright: ignore[reportArgumentType] - one of ours
    return registry.get_sample_value(name)


def test_the_process_says_what_it_takes() -> None:
    collector, own = ProcessCollector(), psutil.Process()

    started = value(collector, "process_start_time_seconds")
    memory = value(collector, "process_resident_memory_bytes")
    files, most = (value(collector, f"process_{name}_fds") for name in ("open", "max"))

    assert started == own.create_time()
    assert memory is not None
    assert memory > 10e6
    assert files is not None
    assert most is not None
    assert 2 < files < most


@contextmanager
def busy_child() -> Generator[psutil.Process]:
    """A child that has used a fifth of a second of CPU and waits."""
    busy = "import sys, time\nwhile time.process_time() < 0.2: pass\n"
    program = busy + "print(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield psutil.Process(child.pid)


def test_the_cpu_time_of_children_stays_when_they_end() -> None:
    collector = ProcessCollector()

    with busy_child():
        first = value(collector, "galley_engine_cpu_seconds_total")
        again = value(collector, "galley_engine_cpu_seconds_total")
    after = value(collector, "galley_engine_cpu_seconds_total")

    assert first is not None
    assert again is not None
    assert after is not None
    assert 0.1 < first <= again <= after


def test_a_disk_says_how_much_of_it_is_free(tmp_path: Path) -> None:
    free = value(DiskCollector(tmp_path), "galley_disk_free_bytes")
    size = value(DiskCollector(tmp_path), "galley_disk_size_bytes")

    assert free is not None
    assert size is not None
    assert 0 < free <= size


def test_of_a_disk_that_is_gone_nothing_is_said(tmp_path: Path) -> None:
    assert value(DiskCollector(tmp_path / "gone"), "galley_disk_free_bytes") is None


def test_gpus_are_shown_where_the_driver_shows_any() -> None:
    gpus = Gpus.open()
    registry = CollectorRegistry()
    registry.register(GpuCollector())

    sizes = [
        registry.get_sample_value("galley_gpu_memory_size_bytes", {"gpu": str(number)})
        for number in range(9)
    ]

    found = [size for size in sizes if size is not None]
    assert found == [gpu.size_bytes for gpu in (gpus.look() if gpus else [])]
    assert all(size > 1e9 for size in found)
