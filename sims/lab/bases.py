"""Bases: what a random change of basis of the tokens does to a head's balanced and raw modes (T22)."""

import jax
import jax.numpy as jnp
from jax import Array

from svtheory.prediction.whitened import Whitened
from svtheory.spectra import Root, readings

TURNED = 100.0  # condition number of a change of basis
SAMPLED = 20  # tokens on either side whose terms are compared


def moved(tokens: Whitened, modes: int, W_Q: Array, W_K: Array, key: Array) -> tuple[Array, Array]:
    """How far a change of basis moves balanced values and terms, and raw terms, of random tokens, over the largest."""
    D = W_Q.shape[1]
    draw, *keys = jax.random.split(key, 5)
    U, V, P, Q = (jax.random.orthogonal(k, D) for k in keys)
    stretch = jnp.geomspace(TURNED**-0.5, TURNED**0.5, D)
    turns = (U * stretch[None, :]) @ V, (P * stretch[None, :]) @ Q
    backs = V.T @ (U / stretch[None, :]).T, Q.T @ (P / stretch[None, :]).T
    sides = tokens.query, tokens.key
    roots = [side.basis * side.scale[None, :] for side in sides]
    r, s = (Z @ g for Z, g in zip(roots, jax.random.normal(draw, (2, D, SAMPLED)), strict=True))

    def terms(given):
        W_Q, W_K, Z_r, Z_s, r, s = given
        moments = [Root(*jnp.linalg.svd(Z, full_matrices=False)[:2]) for Z in (Z_r, Z_s)]
        found = readings(W_Q, W_K, *moments)
        return [
            (x.values[:modes], x.values[:modes, None] * (x.query_probes.T @ r)[:modes] * (x.key_probes.T @ s)[:modes])
            for x in (found["balanced"], found["raw"])
        ]

    turned = [turn @ x for x, turn in zip((*roots, r, s), 2 * turns, strict=True)]
    after = W_Q @ backs[0], W_K @ backs[1], *turned
    both = jax.tree.map(lambda *x: jnp.stack(x), (W_Q, W_K, *roots, r, s), after)
    balanced, raw = jax.lax.map(terms, both)

    def change(x):
        return jnp.abs(x[1] - x[0]).max() / jnp.abs(x[0]).max()

    return jnp.maximum(*map(change, balanced)), change(raw[1])
