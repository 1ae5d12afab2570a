"""Head scenarios: a hypothesis about a head, and the moments of what it reads, as a Scenario (T5, T6).

Samples r with feature values f are taken apart by least squares, `r = X f + R g + m`: X, the directions in which
features show, is the dictionary; R g what no feature tells, of uncorrelated g; m what is the same in all. With the
features `[X, R, m]`, and a law of the moments of `(f, g, 1)`, the Scenario's token moments are the samples', exactly,
and so is the correlation of tokens and features: its optimum is the prediction of T16 after endless training.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag

from svtheory.heads.hypotheses import Hypothesis
from svtheory.laws import Gaussian
from svtheory.scenarios import Scenario


def scenario_of_head(
    query_inputs: np.ndarray,
    key_inputs: np.ndarray,
    hypothesis: Hypothesis,
    member: int = 0,
    objective: str = "softmax",
    head_dim: int | None = None,
    n_keys: int = 8,
    query_bias: bool = False,
    weight_decay: float = 0.0,
    dtype: str = "float64",
) -> Scenario:
    """The Scenario of a head that reads inputs (n, D) and (n', D') and is asked for a member of a hypothesis.

    Features that no sample has are left out, of both sides. The first features of each side are the hypothesis' own;
    what no feature tells comes after them and is matched with nothing. Raises InputError as Scenario does.

    >>> f = np.eye(2)[[0, 1, 0, 1, 1]]
    >>> made = scenario_of_head(3 * f, 2 * f, Hypothesis("same token", f, f, np.eye(2)), dtype="float32")
    >>> made.query_features.round(2).tolist()  # no rest; what all have in common is half of each
    [[1.5, -1.5, 1.5], [-1.5, 1.5, 1.5]]
    """
    seen = [features.any(axis=0) for features in (hypothesis.query_features, hypothesis.key_features)]
    (X, query_law), (Y, key_law) = (
        _taken_apart(np.asarray(inputs), np.asarray(features[:, kept]), dtype)
        for inputs, features, kept in zip(
            (query_inputs, key_inputs), (hypothesis.query_features, hypothesis.key_features), seen, strict=True
        )
    )
    T = np.zeros((X.shape[1], Y.shape[1]))
    T[: seen[0].sum(), : seen[1].sum()] = hypothesis.family[member][np.ix_(*seen)]
    options = {"objective": objective, "head_dim": head_dim, "n_keys": n_keys, "query_bias": query_bias}
    return Scenario(X, Y, jnp.asarray(T, dtype), query_law, key_law, weight_decay=weight_decay, **options)


def _taken_apart(x: np.ndarray, f: np.ndarray, dtype: str) -> tuple[jax.Array, Gaussian]:
    """Features `[X, R, m]` of samples x (n, D) with values f (n, N), and the law of their activations."""
    x, f, mean_f = _without_rounding(x), f.astype(float), f.mean(axis=0, dtype=float)
    covariance = np.cov(f.T, bias=True).reshape(f.shape[1], f.shape[1])
    centred = x - x.mean(axis=0)
    # one-hot features vary in one dimension less than they are, to rounding
    inverse = np.linalg.pinv(covariance, rcond=100 * len(covariance) * np.finfo(float).eps, hermitian=True)
    X = (centred.T @ f / len(x)) @ inverse
    _, s, axes = np.linalg.svd((centred - (f - mean_f) @ X.T) / np.sqrt(len(x)), full_matrices=False)
    kept = s > max(x.shape) * np.finfo(np.dtype(dtype)).eps * np.linalg.norm(x) / np.sqrt(len(x))
    R, m = axes[kept].T * s[kept], x.mean(axis=0) - X @ mean_f
    law = Gaussian(
        jnp.asarray(np.concatenate([mean_f, np.zeros(R.shape[1]), [1]]), dtype),
        jnp.asarray(block_diag(covariance, np.eye(R.shape[1]), 0), dtype),
    )
    return jnp.asarray(np.column_stack([X, R, m]), dtype), law


def _without_rounding(x: np.ndarray) -> np.ndarray:
    """Samples (n, D) without the directions in which only their own dtype's rounding makes them vary."""
    middle = x.mean(axis=0, dtype=float)
    P, s, axes = np.linalg.svd(x - middle, full_matrices=False)
    kept = s > max(x.shape) * np.finfo(x.dtype).eps * s[0]
    return middle + (P[:, kept] * s[kept]) @ axes[kept]
