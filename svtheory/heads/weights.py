"""Weights: one attention head as what turns a token into its queries and keys, and normalisation folded into it."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, one_of, real_array
from svtheory.frames import exact_products
from svtheory.pytrees import pytree
from svtheory.rotary import PAIRINGS


@pytree("pairing", "divisor", "folded")
@dataclass(frozen=True)
class Head:
    """One attention head: `score(r, s) = (R_p (W_Q r + b_Q))^T R_p' (W_K s + b_K)`, query at p and key at p'.

    W_Q, W_K     factors, shapes (H, D) and (H, D'); with grouped queries, the W_K of the query head's group
    b_Q, b_K     biases, shape (H,), or None
    frequencies  rotary angle a position of each plane, shape (R/2,), R <= H the rows that are rotated, or None: R_p = I
    pairing      which of the R rows span a plane: "adjacent" 2h and 2h + 1, "half-split" h and h + R/2
    divisor      what scores are divided by before the softmax; None is sqrt(H)
    folded       whether gain and bias of the normalisation before the head are in its weights, so that it reads
                 normalised tokens

    All arrays follow the dtype of W_Q. Heads stack: a leading axis on every array is many heads, for vmap and lax.map.
    Raises InputError for shapes that disagree, numbers that are not finite, an unknown pairing or a divisor that is not
    positive.
    """

    W_Q: Array
    W_K: Array
    b_Q: Array | None = None
    b_K: Array | None = None
    frequencies: Array | None = None
    pairing: str = "half-split"
    divisor: float | None = None
    folded: bool = False

    def __post_init__(self):
        W_Q = real_array("W_Q", self.W_Q, ndim=2)
        H, dtype = W_Q.shape[0], W_Q.dtype
        given = {"W_K": 2, "b_Q": 1, "b_K": 1, "frequencies": 1}
        arrays = {
            name: real_array(name, getattr(self, name), ndim).astype(dtype)
            for name, ndim in given.items()
            if name == "W_K" or getattr(self, name) is not None
        }
        for name, x in arrays.items():
            if name != "frequencies" and x.shape[0] != H:
                raise InputError(f"{name} must have {H} rows, the head dimension of W_Q, got shape {x.shape}")
            if name == "frequencies" and 2 * x.size > H:
                raise InputError(f"frequencies must be at most {H // 2}, one for two of the {H} rows, got {x.size}")
        one_of("pairing", self.pairing, PAIRINGS)
        divisor = H**0.5 if self.divisor is None else self.divisor
        if not (isinstance(divisor, int | float | np.number) and 0 < divisor < np.inf):
            raise InputError(f"divisor must be a positive number, got {divisor!r}")
        for name, x in {"W_Q": W_Q, **arrays, "divisor": float(divisor), "folded": bool(self.folded)}.items():
            object.__setattr__(self, name, x)

    def rotated(self, vectors: Array, positions: Array) -> Array:
        """`R_p x` for vectors x (..., H) at positions p, (...) or its last axes; x itself without rotation."""
        if self.frequencies is None:
            return vectors
        planes = self.frequencies.shape[-1]
        turned, rest = vectors[..., : 2 * planes], vectors[..., 2 * planes :]
        axis, shape = (-1, (planes, 2)) if self.pairing == "adjacent" else (-2, (2, planes))
        a, b = jnp.moveaxis(turned.reshape(*turned.shape[:-1], *shape), axis, 0)
        p = jnp.broadcast_to(jnp.asarray(positions, vectors.dtype), vectors.shape[:-1])
        angle = p[..., None] * self.frequencies.reshape((1,) * p.ndim + (planes,))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        both = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=axis)
        return jnp.concatenate([both.reshape(turned.shape), rest], axis=-1)

    @exact_products
    def queries(self, tokens: Array, positions: Array) -> Array:
        """`R_p (W_Q r + b_Q)` of tokens (..., D) at positions (...), shape (..., H)."""
        return self.rotated(affine(self.W_Q, self.b_Q, tokens), positions)

    @exact_products
    def keys(self, tokens: Array, positions: Array) -> Array:
        """`R_p' (W_K s + b_K)` of tokens (..., D') at positions (...), shape (..., H)."""
        return self.rotated(affine(self.W_K, self.b_K, tokens), positions)


def affine(W: Array, b: Array | None, tokens: Array) -> Array:
    """`W x + b` of tokens (..., D), shape (..., H)."""
    mapped = tokens @ W.T
    return mapped if b is None else mapped + b.reshape((1,) * (mapped.ndim - 1) + b.shape)


def fold_layer_norm(head: Head, gain: Array, bias: Array | None = None) -> Head:
    """The head with the LayerNorm before it folded in, to read `(x - mean(x))/deviation(x)`.

    With C = I - 11^T/D: `W diag(g) C` and `b + W beta` for both factors. Centring changes no score, for what is read
    has mean 0, but it takes from Omega a direction that is never visited. Gain g and bias beta, shape (D,).
    Raises InputError for shapes that disagree or a head that is folded already.
    """
    scaled = _scaled(head, gain)
    folded = {name: W - W.mean(axis=1, keepdims=True) for name, W in (("W_Q", scaled.W_Q), ("W_K", scaled.W_K))}
    if bias is not None:
        beta = _per_input("bias", bias, head)
        folded |= {"b_Q": _shift(head.W_Q, head.b_Q, beta), "b_K": _shift(head.W_K, head.b_K, beta)}
    return dataclasses.replace(scaled, **folded)


def fold_rms_norm(head: Head, gain: Array) -> Head:
    """The head with the RMSNorm before it folded in, to read `x/rms(x)`: `W diag(g)` for both factors, gain g (D,).

    Raises InputError for shapes that disagree or a head that is folded already.
    """
    return _scaled(head, gain)


def _scaled(head: Head, gain: Array) -> Head:
    if head.folded:
        raise InputError("head must not be folded already")
    g = _per_input("gain", gain, head)[None, :]
    return dataclasses.replace(head, W_Q=head.W_Q * g, W_K=head.W_K * g, folded=True)


def _per_input(name: str, x: Array, head: Head) -> Array:
    array = real_array(name, x, ndim=1).astype(head.W_Q.dtype)
    if not array.shape[0] == head.W_Q.shape[1] == head.W_K.shape[1]:
        raise InputError(f"{name} must have shape {head.W_Q.shape[1:]}, one number an input, got {array.shape}")
    return array


@exact_products
def _shift(W: Array, b: Array | None, beta: Array) -> Array:
    return W @ beta if b is None else b + W @ beta
