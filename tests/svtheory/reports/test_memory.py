"""Memory: what options ask for is refused before it is taken, and a run that takes more than there is gets an error."""

import os
import resource
import sys
from dataclasses import dataclass

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
