"""How many CPU threads an engine takes."""

import os

import psutil


def thread_count(wanted: int) -> int:
    """Return `wanted`, or for 0 all physical cores that are ours but one.

    One core stays free: on two cores, a busy neighbour makes llama.cpp's two threads three times
    slower than one.
    """
    if wanted:
        return wanted
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # a container may own fewer than the machine has
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores - 1)
