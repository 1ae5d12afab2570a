"""Memory: what options ask for is refused before it is taken, and a run that takes more than there is gets an error."""

import os
import resource
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from svtheory.checks import InputError
from svtheory.reports import memory
from svtheory.reports.options import Options


@dataclass(frozen=True)
class Config(Options):
    ARRAYS = ("members n_keys n_keys", "sizes 100", "tokens cores")

    members: int = 2
    n_keys: int = 8
    sizes: tuple[int, ...] = (1, 3)
    tokens: int = 1


@pytest.mark.parametrize(
    ("options", "asked", "got"),
    [
        ({"n_keys": 36}, "--members x --n-keys x --n-keys", "2 x 36 x 36"),
        ({"members": 40}, "--members x --n-keys x --n-keys", "40 x 8 x 8"),
        ({"sizes": (1, 26, 2)}, "--sizes x 100", "26 x 100"),
        ({"tokens": 2501}, "--tokens x cores", f"2501 x {os.cpu_count()}"),
    ],
)
def test_the_largest_arrays_must_fit(options, asked, got):
    memory.check_arrays(Config(n_keys=35), 10_000)  # 2450 numbers, of float32
    with pytest.raises(InputError) as refused:
        memory.check_arrays(Config(**options), 10_000)
    told = f"{asked} must be at most 2.5e+03, numbers for which there is memory (1e-05 GB), got {got}"
    assert str(refused.value) == told


def test_what_has_no_arrays_and_no_options_ask_for_nothing():
    memory.check_arrays(Options(), 0)
    memory.check_arrays(Config(sizes=()), 10_000)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_more_memory_than_the_machine_has_is_an_error_within_a_run_alone():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.limited():
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert 0 < memory.available() < limit
        with pytest.raises(MemoryError):  # in parts, each of which Linux would give
            _ = [np.empty(limit // 4, np.uint8) for _ in range(5)]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


MACHINE = {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nSwapTotal: 1000000 kB\n"}
SECOND, FIRST = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def group(folder: str, limit: str, used: int, idle: int) -> dict[str, str]:
    """Files of a control group, of whichever version the folder is."""
    first = folder.startswith(FIRST)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
    stat = f"inactive_file {0 if first else idle}\nactive_file 77\n" + f"total_inactive_file {idle}\n" * first
    return {
        f"{folder}/{name}": text for name, text in zip((*names, "memory.stat"), (limit, f"{used}\n", stat), strict=True)
    }


@pytest.mark.parametrize(
    ("files", "free", "most"),
    [
        ({}, 8_192_000_000, 17_408_000_000),  # no groups
        ({"proc/self/cgroup": "0::/job\n"} | group(f"{SECOND}/job", "max\n", 1, 0), 8_192_000_000, 17_408_000_000),
        # a container's own group lies at the top: version 2, and version 1, which names where the host has it
        ({"proc/self/cgroup": "0::/\n"} | group(SECOND, "4000\n", 3000, 500), 1500, 4000),
        ({"proc/self/cgroup": "4:memory:/docker/af\n0::/\n"} | group(FIRST, "4000\n", 3000, 500), 1500, 4000),
        ({"proc/self/cgroup": "3:cpu,memory:/a\n"} | group(f"{FIRST}/a", "4000\n", 3000, 500), 1500, 4000),
        # groups within groups: the least room need not be where the least limit is
        (
            {"proc/self/cgroup": "0::/jobs/one\n"}
            | group(f"{SECOND}/jobs/one", "4000\n", 1000, 0)
            | group(f"{SECOND}/jobs", "9000\n", 7500, 300)
            | group(f"{SECOND}/other", "10\n", 10, 0),
            1800,
            4000,
        ),
        # no limit, as version 1 writes it, and another controller's group
        ({"proc/self/cgroup": "4:memory:/\n"} | group(FIRST, f"{2**63 - 4096}\n", 1, 0), 8_192_000_000, 17_408_000_000),
        ({"proc/self/cgroup": "4:pids:/\n"} | group(FIRST, "10\n", 1, 0), 8_192_000_000, 17_408_000_000),
    ],
)
def test_a_container_has_no_more_than_its_limit(tmp_path, monkeypatch, files, free, most):
    for name, text in (MACHINE | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() == memory.SPARED * free
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits[0]))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with memory.limited():
        pass
    if sys.platform == "linux" and jax.default_backend() == "cpu":
        assert asked == [most, resource.RLIM_INFINITY]


def test_a_system_that_says_nothing_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() == np.inf
