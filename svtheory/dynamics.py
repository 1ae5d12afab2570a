"""Dynamics: what finite training time shows of the optimum (T17)."""

import jax.numpy as jnp
from jax import Array


def training_condition_number(smallest: Array | float, largest: Array | float, time: Array | float) -> Array:
    """`kappa_t = kappa (1 - e^{-m t}) / (1 - e^{-L t})`: the condition number that training for `time` has seen.

    Rises from 1 at time 0, where singular vectors are features, to `kappa = L/m`, where they are duals; with
    `kantorovich_bound` it bounds the alignment at that time (T17). `m`, `L` are the extreme eigenvalues of the token
    moment on its range (m > 0), `time` is in units of learning rate times steps of gradient flow.

    >>> [round(float(training_condition_number(1.0, 4.0, t)), 3) for t in (0.0, 1.0, jnp.inf)]
    [1.0, 2.576, 4.0]
    """
    m, L, t = jnp.asarray(smallest), jnp.asarray(largest), jnp.asarray(time)
    started = t > 0
    safe = jnp.where(started, t, 1)
    ratio = (L * jnp.expm1(-m * safe)) / (m * jnp.expm1(-L * safe))
    return jnp.where(started, ratio, 1)
