"""Threads: work of layer after layer, as many layers at a time as there are cores.

Small factorisations, of which reading a head is made, keep one core busy each; numpy's and JAX's let other threads run.
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
    with ThreadPoolExecutor(os.cpu_count() if jax.default_backend() == "cpu" else 1) as pool:
        begun = [pool.submit(copy_context().run, own, *given) for given in items[1:]]
        try:
            for future in begun:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
