"""Timing: contenders in turn, so that what else the machine does hits all of them; and the machine's own limits."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

ROUNDS = 7


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` of them after one to warm up, which also compiles; the runs take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn > 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long `slow` takes: the median over pairs of neighbouring calls."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def ceilings() -> dict[str, float]:
    """Arithmetic and bandwidth that this machine reaches: a large product in float32, a large array copied."""
    a = jnp.ones((2048, 2048), jnp.float32)
    x = jnp.ones(2**26, jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    copy = jax.jit(lambda x: x + 1)
    seconds = {name: min(times) for name, times in interleaved({"m": lambda: product(a), "c": lambda: copy(x)}).items()}
    return {
        "matmul_gflop_per_s": 2 * 2048**3 / seconds["m"] / 1e9,
        "copy_gb_per_s": 2 * x.nbytes / seconds["c"] / 1e9,
    }
