"""Layers: what the scores of an attention module are made of, whatever library has it, and all of them as a bundle."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.scoring import told_by_layer


class Layer(NamedTuple):
    """How one layer's heads score.

    W_Q, W_K  shape (heads, d_head, d_model) and (key heads, d_head, d_model)
    b_Q, b_K  shape (heads, d_head) and (key heads, d_head), or None
    divisor   of the scores
    window    how many keys a query sees, or None
    cap       of what is softmaxed, or None
    turned    cosines and sines by which rows are turned, (positions, R) each, or None
    norm      gains of queries and of keys, (d_head,) or (heads or key heads times d_head,), and epsilon, or None
    """

    W_Q: np.ndarray
    W_K: np.ndarray
    b_Q: np.ndarray | None
    b_K: np.ndarray | None
    divisor: float
    window: int | None = None
    cap: float | None = None
    turned: tuple[np.ndarray, np.ndarray] | None = None
    norm: tuple[np.ndarray, np.ndarray, float] | None = None


def assembled(layers: Sequence[Layer], pairing: str, metadata: Mapping[str, str]) -> HeadBundle:
    """Layers as a bundle that has read nothing, its rotated rows paired as told.

    Raises InputError where layers differ in what a bundle has once: sizes, the cap, rows that turn, the kind of norm.
    """
    _check_alike("sizes of heads", [(layer.W_Q.shape, layer.W_K.shape) for layer in layers])
    heads, d_head, _ = layers[0].W_Q.shape
    weights = {"W_Q": np.stack([layer.W_Q for layer in layers])}
    weights["W_K"] = np.stack([_every_head(layer.W_K, heads) for layer in layers])
    for name in ("b_Q", "b_K"):
        biases = [getattr(layer, name) for layer in layers]
        if any(b is not None for b in biases):
            none = np.zeros((heads, d_head), weights["W_Q"].dtype)
            weights[name] = np.stack([none if b is None else _every_head(b, heads) for b in biases])
    others, said = _rotation(layers, pairing)
    gains, of_norm = _norm(layers, heads)
    said |= of_norm | {"window": told_by_layer([layer.window for layer in layers])}
    cap = _check_alike("caps of scores", [layer.cap for layer in layers])
    if cap is not None:
        said["score_cap"] = repr(cap)
    return HeadBundle(**weights, others=others | gains, metadata={**metadata, **said})


def _check_alike(what: str, values: Sequence[Any]) -> Any:
    """The value of all layers."""
    if odd := [i for i, value in enumerate(values) if value != values[0]]:
        raise InputError(f"{what} must be the same in all layers, got {values[0]} in 0, {values[odd[0]]} in {odd[0]}")
    return values[0]


def _every_head(x: np.ndarray, heads: int) -> np.ndarray:
    """Arrays of key heads as those of the query heads that share them."""
    return x.repeat(heads // len(x), axis=0)


def _rotation(layers: Sequence[Layer], pairing: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Frequencies, and what metadata says of them and of divisors, which take up the length of what turns queries."""
    found = [None if layer.turned is None else _frequencies(*layer.turned) for layer in layers]
    turning = [x for x in found if x is not None]
    lengths = [1.0 if x is None else x[1] for x in found]
    divisors = [layer.divisor / length**2 for layer, length in zip(layers, lengths, strict=True)]
    said = {"score_divisor": told_by_layer(divisors)}
    if not turning:
        return {}, said | {"positional": "absolute"}
    _check_alike("rows that turn", [x[0].shape for x in turning])
    theta = np.stack([np.zeros_like(turning[0][0]) if x is None else x[0] for x in found])
    return {"rope_frequencies": theta}, said | {"positional": "rope", "rope_pairing": pairing}


def _frequencies(cos: np.ndarray, sin: np.ndarray) -> tuple[np.ndarray, float]:
    """Radians a position of each plane, from what turns rows at position 1, and the length that it gives them."""
    R = cos.shape[1]
    halves, pairs = (slice(R // 2), slice(R // 2, R)), (slice(0, R, 2), slice(1, R, 2))  # each angle stands there twice
    once = next((one for one, two in (halves, pairs) if np.array_equal(sin[:, one], sin[:, two])), slice(R))
    c, s = (x[1, once].astype(float) for x in (cos, sin))
    return np.arctan2(s, c), round(float(np.hypot(c, s).mean()), 6)


def _norm(layers: Sequence[Layer], heads: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Gains of a query-key norm, and what metadata says of it."""
    d_head = layers[0].W_Q.shape[1]
    sizes = [None if layer.norm is None else (len(layer.norm[0]), layer.norm[2]) for layer in layers]
    alike = _check_alike("norms of queries and keys", sizes)
    if alike is None:
        return {}, {}
    size, epsilon = alike
    gains = {}
    for name, side in (("q_gain", 0), ("k_gain", 1)):
        of_heads = [np.reshape(layer.norm[side], (-1, d_head)) for layer in layers if layer.norm is not None]
        gains[name] = np.stack([_every_head(gain, heads) for gain in of_heads])
    return gains, {"query_key_norm": "per head" if size == d_head else "all heads", "query_key_epsilon": repr(epsilon)}
