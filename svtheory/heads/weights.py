"""Weights: one attention head as what turns a token into its queries and keys, and normalisation folded into it."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, flag, one_of, real_array, whole
from svtheory.numerics import exact_products
from svtheory.prediction.rotary import PAIRINGS
from svtheory.pytrees import pytree

BASE = 4096  # of the two digits of a position


class Norm(NamedTuple):
    """How a head normalises its queries, or its keys, before it rotates them (T23).

    `gain * W x / sqrt(mean((U x)^2) + epsilon)`: what the head computes of a token x is linear but for one scalar.

    gain     shape (H,)
    epsilon  added to the mean square
    over     U, of which the mean square is taken, shape (P, D): W of all heads of a layer; None is the head's own
    """

    gain: Array | np.ndarray
    epsilon: Array | float
    over: Array | np.ndarray | None = None

    @exact_products
    def scale(self, W: Array, tokens: Array) -> Array:
        """`1/sqrt(mean((U x)^2) + epsilon)` of tokens (..., D) of a head W (H, D), shape (...)."""
        projected = tokens @ (W if self.over is None else self.over).T
        return 1 / jnp.sqrt((projected**2).mean(axis=-1) + self.epsilon)


@pytree("pairing", "divisor", "folded", "causal", "window", "cap")
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
    causal       whether a query sees only the keys up to its own position
    window       how many of those it sees, its own among them: keys `p' > p - window`; None is all of them
    cap          of what is softmaxed, `cap tanh(score / divisor / cap)`; None is no cap
    query_norm   how queries are normalised before they are rotated, or None; a side with a norm has no bias (T23)
    key_norm     the same of keys
    turns        frequencies as `rotated` needs them, made here, (2, 2, R/2)

    All arrays follow the dtype of W_Q, half precision becoming float32; frequencies keep the digits they are given
    with, which count at large positions. Heads stack: a leading axis on every array is many heads, for vmap and
    lax.map.
    Raises InputError for shapes that disagree, numbers that are not finite, frequencies in half precision, an unknown
    pairing, a divisor or cap that is not positive, flags that are not True or False, a window without a mask, or a
    bias beside a norm.
    """

    W_Q: Array
    W_K: Array
    b_Q: Array | None = None
    b_K: Array | None = None
    frequencies: Array | np.ndarray | None = None
    pairing: str = "half-split"
    divisor: float | None = None
    folded: bool = False
    causal: bool = True
    window: int | None = None
    cap: float | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    turns: Array | np.ndarray | None = field(init=False, default=None)

    def __post_init__(self):
        W_Q = real_array("W_Q", self.W_Q, ndim=2)
        H, dtype = W_Q.shape[0], W_Q.dtype
        given = {"W_K": 2, "b_Q": 1, "b_K": 1}
        found: dict[str, Any] = {"W_Q": W_Q} | {
            name: real_array(name, getattr(self, name), ndim).astype(dtype)
            for name, ndim in given.items()
            if name == "W_K" or getattr(self, name) is not None
        }
        for name, x in found.items():
            if x.shape[0] != H:
                raise InputError(f"{name} must have {H} rows, the head dimension of W_Q, got shape {x.shape}")
        if self.frequencies is not None:
            found["frequencies"] = _frequencies(self.frequencies, H)
            found["turns"] = _turns(found["frequencies"]).astype(dtype)
        one_of("pairing", self.pairing, PAIRINGS)
        found["divisor"] = _positive("divisor", H**0.5 if self.divisor is None else self.divisor)
        if self.cap is not None:
            found["cap"] = _positive("cap", self.cap)
        for name in ("folded", "causal"):
            found[name] = flag(name, getattr(self, name))
        if self.window is not None:
            found["window"] = whole("window", self.window, 1)
            if not self.causal:
                raise InputError(f"window must be None for a head that is not causal, got {self.window}")
        for side, factor in (("query", "Q"), ("key", "K")):
            if (norm := getattr(self, f"{side}_norm")) is not None:
                found[f"{side}_norm"] = _norm(f"{side}_norm", norm, found[f"W_{factor}"])
                if f"b_{factor}" in found:
                    raise InputError(f"b_{factor} must be None beside a {side}_norm, got a bias")
        for name, x in found.items():
            object.__setattr__(self, name, x)

    def rotated(self, vectors: Array, positions: Array) -> Array:
        """`R_p x` for vectors x (..., H) at positions p, (...) or its last axes; x itself without rotation.

        Angles are taken in float32 at least, and right to 3e-6 up to position 2^24: a position is written as
        `p_0 + BASE p_1`, and whole turns are dropped from what either turns by.
        """
        if self.turns is None:
            return vectors
        dtype, planes = vectors.dtype if vectors.dtype.itemsize >= 4 else jnp.dtype("float32"), self.turns.shape[-1]
        turned, rest = vectors[..., : 2 * planes], vectors[..., 2 * planes :]
        axis, shape = (-1, (planes, 2)) if self.pairing == "adjacent" else (-2, (2, planes))
        a, b = jnp.moveaxis(turned.reshape(*turned.shape[:-1], *shape).astype(dtype), axis, 0)
        p = jnp.asarray(positions).astype(dtype)
        angle = _angles(self.turns.astype(dtype), p.reshape((1,) * (vectors.ndim - 1 - p.ndim) + p.shape))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        both = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=axis).astype(vectors.dtype)
        return jnp.concatenate([both.reshape(turned.shape), rest], axis=-1)

    @exact_products
    def queries(self, tokens: Array, positions: Array) -> Array:
        """`R_p (W_Q r + b_Q)` of tokens (..., D) at positions (...), normalised before they turn, shape (..., H)."""
        return self.rotated(_projected(self.W_Q, self.b_Q, self.query_norm, tokens), positions)

    @exact_products
    def keys(self, tokens: Array, positions: Array) -> Array:
        """`R_p' (W_K s + b_K)` of tokens (..., D') at positions (...), normalised before they turn, shape (..., H)."""
        return self.rotated(_projected(self.W_K, self.b_K, self.key_norm, tokens), positions)


def _projected(W: Array, b: Array | None, norm: Norm | None, tokens: Array) -> Array:
    """What the head makes of tokens (..., D) before rotation, (..., H)."""
    x = jnp.asarray(tokens).astype(W.dtype)
    mapped = affine(W, b, x)
    if norm is None:
        return mapped
    return mapped * norm.scale(W, x)[..., None] * norm.gain.reshape((1,) * (mapped.ndim - 1) + (-1,))


def bilinear(head: Head, queries: Array, keys: Array) -> tuple[Head, Array, Array]:
    """The head without its query-key norms, and the tokens that it then reads for the same scores (T23).

    `W = diag(gain) W` and tokens `r/rms(W_Q r)`, `s/rms(W_K s)`: whatever reads a given head in terms of its tokens,
    their terms and their moments holds of these. A side without a norm stays as it is. Tokens (..., D), (..., D').

    >>> head = Head(jnp.eye(2), jnp.eye(2), query_norm=Norm(jnp.array([2.0, 1.0]), 1e-9))
    >>> plain, r, s = bilinear(head, jnp.array([[3.0, 3.0]]), jnp.array([[1.0, 0.0]]))
    >>> plain.W_Q.tolist(), r.round(4).tolist(), s.tolist()
    ([[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]], [[1.0, 0.0]])
    """
    plain: dict[str, Any] = {}
    read = []
    for side, name, tokens in (("query", "W_Q", queries), ("key", "W_K", keys)):
        norm, W = getattr(head, f"{side}_norm"), getattr(head, name)
        x = jnp.asarray(tokens).astype(W.dtype)
        if norm is not None:
            plain |= {name: norm.gain[:, None] * W, f"{side}_norm": None}
            x = x * norm.scale(W, x)[..., None]
        read.append(x)
    made = copy.copy(head)
    for key, value in plain.items():
        object.__setattr__(made, key, value)  # made anew while JAX traces it, a head would round its frequencies
    return made, read[0], read[1]


def _norm(name: str, norm: Norm, W: Array) -> Norm:
    """A checked norm of the factor W (H, D), in its dtype."""
    gain, epsilon = real_array(f"{name}.gain", norm.gain, ndim=1), real_array(f"{name}.epsilon", norm.epsilon, ndim=0)
    if gain.shape != W.shape[:1]:
        raise InputError(f"{name}.gain must have shape {W.shape[:1]}, one number a row, got {gain.shape}")
    if concrete(epsilon) and not epsilon > 0:
        raise InputError(f"{name}.epsilon must be positive, got {float(epsilon):g}")
    over = None if norm.over is None else real_array(f"{name}.over", norm.over, ndim=2).astype(W.dtype)
    if over is not None and over.shape[1] != W.shape[1]:
        raise InputError(f"{name}.over must have {W.shape[1]} columns, as its factor, got shape {over.shape}")
    return Norm(gain.astype(W.dtype), epsilon.astype(W.dtype), over)


def _frequencies(given: Any, H: int) -> Array | np.ndarray:
    """Checked frequencies; with all their digits, as numpy's float64, unless JAX traces them."""
    if not isinstance(given, Array):
        given = np.asanyarray(given.detach() if hasattr(given, "detach") else given)
    checked = real_array("frequencies", given.astype(np.float32) if given.dtype == np.float64 else given, ndim=1)
    if given.dtype.itemsize < 4:
        raise InputError(f"frequencies must be float32 or float64, got {given.dtype}, whose rounding turns heads")
    if 2 * checked.size > H:
        raise InputError(f"frequencies must be at most {H // 2}, one for two of the {H} rows, got {checked.size}")
    return np.asarray(given, np.float64) if concrete(given) else checked


def _turns(frequencies: Array | np.ndarray) -> Array | np.ndarray:
    """Turns a position, times 1 and BASE, less whole turns: multiples of 1/BASE and the rests, shape (2, 2, R/2)."""
    xp = np if isinstance(frequencies, np.ndarray) else jnp
    once = frequencies / (2 * np.pi)
    turns = [turn - xp.round(turn) for turn in (once, BASE * (once - xp.round(once)))]
    coarse = [xp.round(BASE * turn) / BASE for turn in turns]
    return xp.stack([xp.stack([c, turn - c]) for c, turn in zip(coarse, turns, strict=True)])


def _angles(turns: Array | np.ndarray, p: Array) -> Array:
    """The angles, from -pi to pi, that positions p (...) turn planes by, shape (..., R/2).

    With digits and coarse turns below BASE = 2^12, their products are exact in float32 up to position 2^24, and whole
    turns leave no rounding behind.
    """
    above = jnp.floor(p / BASE)
    total = jnp.zeros((*p.shape, turns.shape[-1]), p.dtype)
    for digit, parts in zip((p - BASE * above, above), turns, strict=True):
        coarse, rest = (digit[..., None] * part.reshape((1,) * p.ndim + part.shape) for part in parts)
        total = total + (coarse - jnp.round(coarse)) + rest
    return 2 * np.pi * (total - jnp.round(total))


def _positive(name: str, x: Any) -> float:
    if isinstance(x, bool) or not (isinstance(x, int | float | np.number) and 0 < x < np.inf):
        raise InputError(f"{name} must be a positive number, got {x!r}")
    return float(x)


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
    folded = _mapped(scaled, lambda W: W - W.mean(axis=1, keepdims=True))
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
    return dataclasses.replace(head, **_mapped(head, lambda W: W * g), folded=True)


def _mapped(head: Head, of_rows: Callable[[Array], Array]) -> dict[str, Any]:
    """Both factors with changed rows, and what their norms are taken over."""
    found: dict[str, Any] = {name: of_rows(getattr(head, name)) for name in ("W_Q", "W_K")}
    for name in ("query_norm", "key_norm"):
        norm = getattr(head, name)
        if norm is not None and norm.over is not None:
            found[name] = norm._replace(over=of_rows(norm.over))
    return found


def _per_input(name: str, x: Array, head: Head) -> Array:
    array = real_array(name, x, ndim=1).astype(head.W_Q.dtype)
    if not array.shape[0] == head.W_Q.shape[1] == head.W_K.shape[1]:
        raise InputError(f"{name} must have shape {head.W_Q.shape[1:]}, one number an input, got {array.shape}")
    return array


@exact_products
def _shift(W: Array, b: Array | None, beta: Array) -> Array:
    return W @ beta if b is None else b + W @ beta
