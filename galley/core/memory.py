"""How much memory this process may take, and what it takes with its children."""

import sys
from pathlib import Path
from typing import cast

import psutil

_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_there_is() -> int:
    """Return the container's memory, or the machine's where that is less, in bytes."""
    machine = psutil.virtual_memory().total
    return min([machine, *filter(None, map(_limit, _CGROUPS))])


def resident_memory() -> int:
    """Return what this process and its children take, in bytes."""
    own = psutil.Process()
    return sum(usage(process)[0] for process in (own, *own.children(recursive=True)))


def usage(process: psutil.Process) -> tuple[int, float]:
    """Return the resident memory in bytes and the CPU time in seconds; nothing once it ended."""
    try:
        with process.oneshot():
            times = process.cpu_times()
            rss = cast("int", process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0, 0.0
    return rss, times.user + times.system


def _limit(path: Path) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        told = path.read_text().strip()
    except OSError:
        return None
    return int(told) if told.isdigit() else None  # version 2 says `max` where there is none
