"""How many CPU threads an engine takes."""

import os

import psutil


def available_cores() -> int:
    """Count the physical cores that this process may use."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # a container may own fewer than the machine has
        cores = min(cores, len(os.sched_getaffinity(0)))
    return cores


def chat_threads(wanted: int) -> int:
    """Return `wanted`, or for 0 all cores but one.

    On two cores, a busy neighbour makes llama.cpp's two threads three times slower than one.
    """
    return wanted or max(1, available_cores() - 1)
