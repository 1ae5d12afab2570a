"""Threads: work of layer after layer, as many layers at a time as there are cores but one.

Small factorisations, of which reading a head is made, keep one core busy each; numpy's and JAX's let other threads run.
One core is left: a batch of LAPACK's factorisations may hold a thread of XLA's pool, which has one for each core, until
other threads of the pool have done its parts. Programs side by side that hold all of them wait for one another forever
(seen with jaxlib 0.10.2: the SVDs of random heads of two layers, on two cores).
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from svtheory.progress import track

T = TypeVar("T")


def in_threads(work: Callable[..., T], *items: Any, doing: str) -> list[T]:
    """`work(item, ...)` of each item of like sequences, in their order, several at a time, with progress.

    The first is done alone: what it compiles serves the others. An accelerator is given one at a time. An error of one,
    or Ctrl-C, ends all that have not begun.
    """
    return list(track(_done(work, list(zip(*items, strict=True))), doing, len(items[0])))


def _done(work: Callable[..., T], items: list[tuple[Any, ...]]) -> Iterator[T]:
    wide = jnp.result_type(float) == jnp.float64  # may be so in this thread alone

    def own(*given: Any) -> T:
        with jax.enable_x64(wide):
            return work(*given)

    if items:
        yield own(*items[0])
    with ThreadPoolExecutor(max(1, _cores() - 1) if jax.default_backend() == "cpu" else 1) as pool:
        begun = [pool.submit(copy_context().run, own, *given) for given in items[1:]]
        try:
            for future in begun:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    """The cores that this process may use, as XLA counts them: it may be bound to some of those that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
