"""Targets: the template T (N, M) of logits `f_r^T T f_s` that a head is asked for."""

from collections.abc import Hashable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, flag, index, real_array, whole


def single_pair(n_query: int, n_key: int, query: int, key: int, strength: float | Array = 1.0) -> Array:
    """`T = t e_i e_j^T`: query feature i matched with key feature j; shape (n_query, n_key) (T1).

    >>> single_pair(2, 3, 0, 2, 5.0).tolist()
    [[0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]
    """
    return matching(n_query, n_key, [query], [key], real_array("strength", strength, ndim=0)[None])


def matching(
    n_query: int, n_key: int, queries: Sequence[int], keys: Sequence[int], strengths: Sequence[float] | Array
) -> Array:
    """`T = sum_k t_k e_{i_k} e_{j_k}^T`, pairs of query and key features; shape (n_query, n_key) (T4).

    Raises InputError for an index out of range, a pair given twice, or lists of unequal length.
    """
    whole("n_query", n_query, 1)
    whole("n_key", n_key, 1)
    t = real_array("strengths", strengths, ndim=1)
    rows = [index("query", i, n_query) for i in queries]
    columns = [index("key", j, n_key) for j in keys]
    pairs = list(zip(rows, columns, strict=False))
    if not len(rows) == len(columns) == t.size or len(set(pairs)) < len(pairs):
        raise InputError(
            f"queries, keys and strengths must list distinct pairs, one each, got {rows}, {columns} and {t.size} values"
        )
    return _placed(t, np.array(rows, int), np.array(columns, int), n_query, n_key)


@partial(jax.jit, static_argnums=(3, 4))
def _placed(values: Array, rows: Array, columns: Array, n_query: int, n_key: int) -> Array:
    return jnp.zeros((n_query, n_key), values.dtype).at[rows, columns].set(values)


def order(n: int, strict: bool = False) -> Array:
    """`T_ij = [i >= j]`, or `[i > j]` where strict: what compares, sorts or finds the largest; shape (n, n) (T20).

    >>> order(3).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    return jnp.tril(jnp.ones((whole("n", n, 1),) * 2), -1 if flag("strict", strict) else 0)


def shift(n: int, by: int) -> Array:
    """`T_ij = [j = i + by mod n]`: what finds a value so many steps on, round a cycle; shape (n, n) (T20).

    >>> shift(3, 1).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return jnp.roll(jnp.eye(whole("n", n, 1)), whole("by", by, -n) % n, axis=1)


def categories(labels: Sequence[Hashable]) -> Array:
    """`T_ij = [c_i = c_j]` for one label c a feature: what finds its own kind; shape (N, N) (T20).

    Raises InputError where there is no label.

    >>> categories("aba").tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    if len(labels) == 0:
        raise InputError("labels must name a category for each feature, got none")
    return jnp.array([[1.0 if a == b else 0.0 for b in labels] for a in labels])
