"""Rescaled: heads with normalised queries and keys as plain heads, each of which reads tokens of its own size (T23).

A head that divides its queries by `rms(W_Q r)` and its keys by `rms(W_K s)` scores as one without norms, gains in its
factors, that reads `r/rms(W_Q r)` and `s/rms(W_K s)`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax import Array

from svtheory.heads.bundles import HeadBundle


class TokenScales(NamedTuple):
    """What each head multiplies tokens by, for queries and for keys: (layers, heads, sequences, positions), or a part.

    Of one head (sequences, positions) each.
    """

    query: np.ndarray | Array
    key: np.ndarray | Array


def without_norms(bundle: HeadBundle) -> tuple[HeadBundle, TokenScales | None]:
    """A bundle of heads without query-key norms, and by what they multiply its `attn_in` for the same scores (T23).

    `W = diag(gain) W`, and `1/rms` of what each head, or all of a layer, project a token to; None where the bundle does
    not say what its heads read. One without such norms is given back as it is, with None.
    Raises InputError for a bias that is not 0 beside a norm.

    >>> W, gain = np.ones((1, 1, 1, 2)), np.full((1, 1, 1), 3.0)
    >>> said = {"query_key_norm": "per head", "query_key_epsilon": "1e-9"}
    >>> normed = HeadBundle(W, W, attn_in=np.array([[[[1.0, 3.0]]]]), others={"q_gain": gain}, metadata=said)
    >>> plain, scales = without_norms(normed)
    >>> plain.W_Q.tolist(), scales.query.round(4).tolist()
    ([[[[3.0, 3.0]]]], [[[[0.25]]]])
    """
    if bundle.scoring.query_key_norm == "none":
        return bundle, None
    bundle.head(0, 0)  # which has no place for a bias beside a norm
    gains = {"W_Q": bundle.others.get("q_gain"), "W_K": bundle.others.get("k_gain")}
    weights = {name: W if g is None else W * g[..., None] for name, g in gains.items() for W in [getattr(bundle, name)]}
    plain = dataclasses.replace(
        bundle,
        **weights,
        others={name: x for name, x in bundle.others.items() if name not in ("q_gain", "k_gain")},
        metadata={name: x for name, x in bundle.metadata.items() if not name.startswith("query_key_")},
    )
    if bundle.attn_in is None:
        return plain, None
    return plain, TokenScales(*(_scales(bundle, W) for W in (bundle.W_Q, bundle.W_K)))


def rescaled(tokens: Array, scales: TokenScales | None) -> tuple[Array, Array]:
    """What queries and keys of a head are made of: tokens (..., D) times its scales (...), if it has any."""
    if scales is None:
        return tokens, tokens
    return tokens * scales.query[..., None], tokens * scales.key[..., None]


def _scales(bundle: HeadBundle, W: np.ndarray) -> np.ndarray:
    """`1/sqrt(mean square + epsilon)` of what W (layers, heads, H, D) projects tokens to, layer by layer."""
    layers, heads, H, D = W.shape
    assert bundle.attn_in is not None
    epsilon = bundle.scoring.query_key_epsilon
    found = np.empty((layers, heads, *bundle.attn_in.shape[1:3]), bundle.attn_in.dtype)
    for i in range(layers):
        projected = bundle.attn_in[i] @ W[i].reshape(heads * H, D).T
        squares = (projected.reshape(*projected.shape[:2], heads, H) ** 2).mean(axis=-1)
        if bundle.scoring.query_key_norm == "all heads":
            squares = squares.mean(axis=-1, keepdims=True)
        found[i] = np.moveaxis(1 / np.sqrt(squares + epsilon), -1, 0)
    return found
