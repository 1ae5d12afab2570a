"""A public sorting head, sort5: what it reads when it looks for the next number, and what it may be looking for."""

from collections.abc import Mapping

import jax
import numpy as np
from jax import Array

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle

NAME = "sort5"
NUMBERS = 64
LISTED, SORTED = slice(1, 6), slice(7, 11)  # positions of the numbers given, and of the sorted ones that ask for a next
REACHES = np.geomspace(1, 64, 13)


def arrays(bundle: HeadBundle, key: Array, samples: int) -> Mapping[str, np.ndarray]:
    """What the head reads at the positions that matter, and hypotheses, as a user's file would hold them.

    Queries are the first four sorted numbers, keys the five numbers given, the feature of each its number. "decaying"
    is a family, `[k > q] e^{-(k - q)/L}` of reach L: the nearest larger number is asked for most. "greater" is the
    order alone, "equal" a match, "sizes" the product of both numbers, centred. Of the key's number alone, whatever the
    query, nothing is left where queries are centred. At most as many sequences as the bundle has.
    """
    if "tokens" not in bundle.others or bundle.attn_in is None:
        raise InputError(f"bundle {NAME} must hold tokens and attn_in, got one without")
    rows = np.asarray(jax.random.permutation(key, len(bundle.others["tokens"])))[:samples]
    tokens, x = bundle.others["tokens"][rows], bundle.attn_in[0, rows]
    one_hot, number = np.eye(NUMBERS, dtype=np.float32), np.arange(NUMBERS)
    further = number[None, :] - number[:, None]
    size = number / (NUMBERS - 1) - 0.5
    return {
        "query_inputs": x[:, SORTED].reshape(-1, x.shape[-1]),
        "query_features": one_hot[tokens[:, SORTED].ravel()],
        "key_inputs": x[:, LISTED].reshape(-1, x.shape[-1]),
        "key_features": one_hot[tokens[:, LISTED].ravel()],
        "template.decaying": decaying(further, REACHES).astype(np.float32),
        "member.decaying": REACHES,
        "template.greater": (further > 0).astype(np.float32),
        "template.equal": one_hot,
        "template.sizes": np.outer(size, size).astype(np.float32),
    }


def decaying(further: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """`[d > 0] e^{-d/L}` of distances d (N, M), for each L; shape (P, N, M)."""
    return np.where(further > 0, np.exp(-np.maximum(further, 0) / reaches[:, None, None]), 0)
