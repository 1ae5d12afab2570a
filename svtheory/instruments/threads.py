"""Threads: NumPy's work of layer after layer, as many layers at a time as there are cores.

Not for JAX: a batch of LAPACK factorisations may hold a thread of XLA's pool, which has one for each core, until other
threads of the pool have done its parts. Programs side by side that hold all of them wait for one another forever (seen
with jaxlib 0.10.2: the SVDs of random heads of two layers, on two cores).
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from svtheory.progress import track

T = TypeVar("T")


def in_threads(work: Callable[..., T], *items: Any, doing: str) -> list[T]:
    """`work(item, ...)` of each item of like sequences, in their order, several at a time, with progress.

    An error of one, or Ctrl-C, ends all that have not begun.
    """
    return list(track(_done(work, list(zip(*items, strict=True))), doing, len(items[0])))


def _done(work: Callable[..., T], items: list[tuple[Any, ...]]) -> Iterator[T]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        begun = [pool.submit(work, *given) for given in items]
        try:
            for future in begun:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
