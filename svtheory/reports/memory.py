"""Memory: what there is, what options ask for at least, and a limit at which asking fails instead of being killed."""

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from svtheory.checks import InputError

SPARED = 0.8  # of what is free a run may ask for so much: the rest moves with what others do


def available() -> float:
    """Bytes of memory that a run may ask for now; endlessly many where the system does not say."""
    return SPARED * _told("MemAvailable") or np.inf


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
    """Let the process hold no more than the machine has, in this block: Linux gives more, and kills who uses it.

    What asks for more gets an error (`sentence_errors`). Drivers of accelerators set aside addresses that nobody uses,
    so that there is a limit only where jax computes on the CPU.
    """
    there = _told("MemTotal")
    if sys.platform != "linux" or not there or jax.default_backend() != "cpu":
        yield
        return
    import resource  # which Windows lacks

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(there + _told("SwapTotal"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _told(name: str) -> float:
    """Bytes of which Linux says this in its file on memory; 0 where there is none."""
    path = Path("/proc/meminfo")
    found = re.search(rf"{name}:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return 1024 * float(found[1]) if found else 0.0
