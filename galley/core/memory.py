"""How much memory this process may take, and what it takes with its children."""

import sys
from pathlib import Path

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
    return sum(_resident(process) for process in (own, *own.children(recursive=True)))


def _limit(path: Path) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        told = path.read_text().strip()
    except OSError:
        return None
    return int(told) if told.isdigit() else None  # version 2 says `max` where there is none


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
