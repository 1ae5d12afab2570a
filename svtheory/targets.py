"""Targets: the template T (N, M) of logits `f_r^T T f_s` that a head is asked for."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from svtheory.checks import InputError, index, real_array, whole


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
    return jnp.zeros((n_query, n_key), t.dtype).at[jnp.array(rows), jnp.array(columns)].set(t)
