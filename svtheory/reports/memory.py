"""Memory: what there is, what options ask for at least, and a limit at which asking fails instead of being killed."""

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

from svtheory.checks import InputError

SPARED = 0.8  # of what is free a run may ask for so much: the rest moves with what others do
ROOT = Path("/")
# where control groups lie, by the controller that Linux names of them (none since version 2), the files of their limit
# and their use, and the part of that use which gives way: pages of files that nobody has read lately
GROUPS = {
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def available() -> float:
    """Bytes that a run may ask for now, of the machine and its container; endlessly many where Linux says of none."""
    return SPARED * min([_told("MemAvailable") or np.inf, *(max(limit - used, 0) for limit, used in _groups())])


def check_arrays(options: Any, free: float | None = None) -> None:
    """Raise InputError for options one of whose `ARRAYS` (`Options`) takes more bytes than are `free`, now if None."""
    width = 8 if getattr(options, "dtype", "float32") == "float64" else 4
    room = (available() if free is None else free) / width
    for names in map(str.split, getattr(options, "ARRAYS", ())):
        sizes = [_size(options, name) for name in names]
        if math.prod(sizes) > room:
            asked = " x ".join(f"--{name.replace('_', '-')}" if hasattr(options, name) else name for name in names)
            got = " x ".join(f"{size:g}" for size in sizes)
            raise InputError(
                f"{asked} must be at most {room:.3g}, numbers for which there is memory ({room * width / 1e9:.3g} GB), "
                f"got {got}"
            )


def _size(options: Any, name: str) -> float:
    """A factor, how many cores there are, an option, or the largest of several; none ask for nothing."""
    if name.isdigit():
        return int(name)
    value = (os.cpu_count() or 1) if name == "cores" else getattr(options, name)
    return max(value, default=0) if isinstance(value, tuple) else value


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Let the process hold no more than its machine or container has in this block: Linux kills who uses more.

    What asks for more gets an error (`sentence_errors`). Drivers of accelerators set aside addresses that nobody uses,
    so that there is a limit only where jax computes on the CPU.
    """
    there = _told("MemTotal")
    if sys.platform != "linux" or not there or jax.default_backend() != "cpu":
        yield
        return
    import resource  # which Windows lacks

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(min([there + _told("SwapTotal"), *(limit for limit, _ in _groups())]))
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _groups() -> Iterator[tuple[float, float]]:
    """Limit and use in bytes of each control group, of containers or batch jobs, that this process counts in."""
    for controllers, path in re.findall(r"^\d+:([^:]*):/(.*)$", _read("proc/self/cgroup"), re.M):
        for top, limit, used, cache in (GROUPS[name] for name in controllers.split(",") if name in GROUPS):
            for folder in (PurePosixPath(top, path), *PurePosixPath(top, path).parents):
                # a container sees its own group at the top, wherever the host has it
                if re.fullmatch(r"\d+\n?", most := _read(folder / limit)):  # not "max"
                    idle = re.search(rf"^{cache} (\d+)", _read(folder / "memory.stat"), re.M)
                    yield float(most), float(_read(folder / used) or 0) - (float(idle[1]) if idle else 0)


def _told(name: str) -> float:
    """Bytes of which Linux says this in its file on memory; 0 where there is none."""
    found = re.search(rf"{name}:\s+(\d+) kB", _read("proc/meminfo"))
    return 1024 * float(found[1]) if found else 0.0


def _read(path: str | PurePosixPath) -> str:
    """A file of Linux about itself; nothing where there is none."""
    with contextlib.suppress(OSError):
        return (ROOT / path).read_text()
    return ""
