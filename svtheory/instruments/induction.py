"""A public induction head, induction_ft000: its task, and what its second layer reads."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import decompose

NAME = "induction_ft000"
TOKENS, CONTEXT, LAYER = 26, 8, 1
WEIGHTS = ("W_E", "W_pos", "W_V", "b_V", "W_O", "b_O")


def arrays(bundle: HeadBundle, key: Array, samples: int) -> Mapping[str, np.ndarray]:
    """What the layer-1 head reads at the positions that matter, and two hypotheses, as a user's file would hold them.

    The query is the last position, its feature the current token. Keys are positions 1 to 6; "previous" gives each the
    token before it, "own" the token itself.
    """
    if missing := [name for name in WEIGHTS if name not in bundle.others]:
        raise InputError(f"bundle {NAME} must hold {', '.join(WEIGHTS)}, got one without {' and '.join(missing)}")
    tokens = sequences(key, samples)
    x = residual_stream(bundle, tokens)
    one_hot, equal = np.eye(TOKENS, dtype=np.float32), np.eye(TOKENS, dtype=np.float32)
    return {
        "query_inputs": x[:, -1],
        "query_features": one_hot[tokens[:, -1]],
        "key_inputs": x[:, 1:-1].reshape(-1, x.shape[-1]),
        "key_features.previous": one_hot[tokens[:, :-2].ravel()],
        "template.previous": equal,
        "key_features.own": one_hot[tokens[:, 1:-1].ravel()],
        "template.own": equal,
    }


def sequences(key: Array, n: int) -> np.ndarray:
    """Eight uniform tokens, the last replaced by one of the first six, shape (n, 8)."""
    first, second = jax.random.split(key)
    tokens = np.array(jax.random.randint(first, (n, CONTEXT), 0, TOKENS))
    tokens[:, -1] = tokens[np.arange(n), np.asarray(jax.random.randint(second, (n,), 0, CONTEXT - 2))]
    return tokens


def residual_stream(bundle: HeadBundle, tokens: np.ndarray) -> np.ndarray:
    """What layer 1 reads, (n, 8, D): embeddings, positions and the output of layer 0's head."""
    w = bundle.others
    x = jnp.asarray(w["W_E"][tokens] + w["W_pos"][None])
    attention = decompose(bundle.head(0, 0), x, x, None).attention
    written = np.asarray(attention @ x) @ w["W_V"][0, 0] + w["b_V"][0, 0]
    return np.asarray(x) + written @ w["W_O"][0, 0] + w["b_O"][0]
