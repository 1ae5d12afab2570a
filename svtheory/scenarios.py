"""Scenario: the one object that theory and simulation both read."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax import Array

from svtheory.checks import InputError, concrete, one_of, real_array, whole
from svtheory.laws import Law
from svtheory.numerics import scaled, shifted
from svtheory.pytrees import pytree

OBJECTIVES = ("square", "softmax")


@pytree("objective", "head_dim", "n_keys", "query_bias")
@dataclass(frozen=True)
class Scenario:
    """A head to be trained: features on both sides, the logits asked for, and how they are asked for.

    Tokens are `r = X f` and `s = Y g`, activations f and g independent draws of the two laws; the head
    `Omega = W_Q^T W_K` is asked for logits `f^T T g` (theory: "Setting and notation").

    query_features  X, shape (D, N)
    key_features    Y, shape (D, M)
    target          T, shape (N, M)
    query_law       law of f, of size N; without a law the second moment is I (T1)
    key_law         law of g, of size M
    objective       "square": (1/2) E (l - l^T)^2 (T1, T5); "softmax": cross-entropy over n_keys keys, laws needed (T6)
    head_dim        H, rows of W_Q and W_K; None means no less than D (T7)
    weight_decay    g >= 0 of (g/2)(|W_Q|_F^2 + |W_K|_F^2), part of the loss (T8, T24)
    n_keys          m >= 2 keys of a softmax
    query_bias      whether the head has a query bias: a key-only term (T6), in the row space of a narrow W_K (T7)

    Leaves of this pytree are the features, the target, the laws and weight_decay; the rest is static, so scenarios of
    one shape stack along a leading axis. The constructor validates and raises InputError or TypeError; unflattening
    bypasses it.
    """

    query_features: Array
    key_features: Array
    target: Array
    query_law: Law | None = None
    key_law: Law | None = None
    objective: str = "square"
    head_dim: int | None = None
    weight_decay: Array | float = 0.0
    n_keys: int = 8
    query_bias: bool = False

    def __post_init__(self):
        one_of("objective", self.objective, OBJECTIVES)
        X = real_array("query_features", self.query_features, ndim=2)
        Y = real_array("key_features", self.key_features, ndim=2)
        T = real_array("target", self.target, ndim=2)
        _check_shapes(X, Y, T)
        _check_matched("query_features", X, T, axis=1)
        _check_matched("key_features", Y, T, axis=0)
        _check_law("query_law", self.query_law, X.shape[1], self.objective)
        _check_law("key_law", self.key_law, Y.shape[1], self.objective)
        if self.head_dim is not None:
            whole("head_dim", self.head_dim, 1)
        # a number stays one while JAX traces: what has no decay is compiled without the solver of T24
        with jax.ensure_compile_time_eval() if concrete(self.weight_decay) else nullcontext():
            decay = real_array("weight_decay", self.weight_decay, ndim=0).astype(X.dtype)
        if concrete(decay) and np.asarray(decay) < 0:
            raise InputError(f"weight_decay must be at least 0, got {self.weight_decay}")
        whole("n_keys", self.n_keys, 2)
        if not isinstance(self.query_bias, bool):
            raise TypeError(f"query_bias must be True or False, got {self.query_bias!r}")
        for name, value in (
            ("query_features", X),
            ("key_features", Y),
            ("target", T),
            ("weight_decay", decay),
        ):
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """D, the dimension of the space that features live in."""
        return self.query_features.shape[-2]

    @property
    def rank(self) -> int:
        """K = min(H, D), the number of singular values a head can have."""
        return self.dim if self.head_dim is None else min(self.head_dim, self.dim)


def at_unit_size(scenario: Scenario) -> tuple[Scenario, Array]:
    """The scenario with features and target near size 1, and the exponent e: its optimum times `2^e` is the scenario's.

    The optimum is of the size of T over those of X and Y, so moments of tiny or huge features leave their dtype where
    the optimum does not.
    """
    (X, x), (Y, y), (T, t) = map(scaled, (scenario.query_features, scenario.key_features, scenario.target))
    decay = shifted(scenario.weight_decay, -(x + y + t))
    return replace(scenario, query_features=X, key_features=Y, target=T, weight_decay=decay), t - x - y


def _check_shapes(X: Array, Y: Array, T: Array) -> None:
    """Features of one dimension, in columns as many as the target has rows (X) and columns (Y)."""
    for name, features, number, side in (("query", X, T.shape[0], "row"), ("key", Y, T.shape[1], "column")):
        others = Y if side == "row" else X
        if features.shape[0] == number != features.shape[1] == others.shape[0]:
            raise InputError(
                f"{name}_features must have {number} columns, one a {side} of target, got shape {features.shape}, "
                "which looks transposed"
            )
    if X.shape[0] != Y.shape[0]:
        raise InputError(f"key_features must have {X.shape[0]} rows, as query_features do, got shape {Y.shape}")
    asked = X.shape[1], Y.shape[1]
    if T.shape != asked:
        turned = ", which looks transposed" if T.shape[::-1] == asked else ""
        raise InputError(f"target must have shape {asked}, one row a query feature, got {T.shape}{turned}")


def _check_matched(name: str, features: Array, target: Array, axis: int) -> None:
    """Features that the target has an entry of, along that axis, are not zero."""
    if not (concrete(features) and concrete(target)):
        return
    zero = ~np.asarray(features).any(axis=0) & np.asarray(target).any(axis=axis)
    if zero.any():
        raise InputError(f"{name} must be non-zero where target matches them, got a zero column {int(np.argmax(zero))}")


def _check_law(name: str, law: Law | None, size: int, objective: str) -> None:
    if law is None:
        if objective == "softmax":
            raise InputError(f"{name} must be a law for the softmax objective, got None")
        return
    if not isinstance(law, Law):
        raise TypeError(f"{name} must be a Law, got {law!r}")
    if law.size != size:
        raise InputError(f"{name} must have size {size}, one activation a feature, got {law.size}")
