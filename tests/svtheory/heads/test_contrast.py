"""Contrastive covariance against its definition, pair by pair, and what it recovers of heads made to match."""

from functools import partial

import jax
import numpy as np
import pytest

from svtheory import InputError
from svtheory.heads import contrastive_covariance
from svtheory.heads.asked import as_seen, ask, stacked
from svtheory.heads.contrast import recovered

D, H, N = 8, 6, 3


def samples(rng, n):
    """Tokens that carry one of N features, among noise, and which."""
    f = np.eye(N)[rng.integers(0, N, n)]
    return f @ np.eye(N, D) + 0.3 * rng.normal(size=(n, D)) + 1, f


def test_it_is_pairs_that_match_less_pairs_that_do_not():
    rng = np.random.default_rng(0)
    (q, f), (k, g) = samples(rng, 30), samples(rng, 20)
    T = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    matched = (f @ T @ g.T).astype(bool)
    products = np.einsum("ai,bj->abij", q, k)
    w = matched.mean()
    expected = w * (1 - w) * (products[matched].mean(axis=0) - products[~matched].mean(axis=0))
    with jax.enable_x64(True):
        np.testing.assert_allclose(contrastive_covariance(q, f, k, g, T), expected, rtol=1e-9, atol=1e-12)


def test_what_it_recovers_by_the_definition():
    """Of a head that matches features in three of its directions and does something else in the other three."""
    rng = np.random.default_rng(1)
    (x, f), (y, g) = samples(rng, 400), samples(rng, 400)
    matched, other = np.zeros((2, H, D)), np.zeros((2, H, D))
    matched[:, :N, :N] = np.eye(N)
    other[:, N:, N:6] = np.eye(N) * 2
    Q = np.linalg.qr(rng.normal(size=(H, H)))[0]
    with jax.enable_x64(True):
        given, layout = stacked([f], [g], [np.eye(N)[None]])
        asked = jax.jit(partial(ask, layout=layout, centre_query=True))(x, y, given)
        seen, found_of = (jax.jit(function) for function in (as_seen, partial(recovered, jax.random.key(0), 200)))
        for W in (Q @ matched, Q @ (matched + other)):
            contrast = contrastive_covariance(x @ W[0].T, f, y @ W[1].T, g, np.eye(N))
            found = jax.tree.map(np.asarray, found_of(contrast, tuple(W), asked))
            U, values, Vt = np.linalg.svd(np.asarray(contrast))
            k = 1 + int(np.searchsorted(np.cumsum(values**2) / (values**2).sum(), 0.99))
            assert found.size == k
            whole = np.asarray(seen(*W, asked)[1])
            kept = np.asarray(seen(W[0], U[:, :k] @ U[:, :k].T @ Vt[:k].T @ Vt[:k] @ W[1], asked)[1])
            expected = (whole * kept).sum() / np.linalg.norm(whole) / np.linalg.norm(kept)
            np.testing.assert_allclose(found.cosine, expected, rtol=1e-6)
            # of k random directions a side, some share of the head
            assert found.chance.shape == (200,)
            assert abs(np.mean(found.chance)) < 0.6 < found.cosine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": np.ones((3, N))}, r"query_features must have 4 rows, one a sample, got shape \(3, 3\)"),
        ({"template": np.ones((2, N))}, r"template must have shape \(3, 3\), got \(2, 3\)"),
    ],
)
def test_bad_samples_are_named(change, message):
    names = ("queries", "query_features", "keys", "key_features", "template")
    arrays = (np.ones((4, H)), np.ones((4, N)), np.ones((5, H)), np.ones((5, N)), np.eye(N))
    with pytest.raises(InputError, match=message):
        contrastive_covariance(**(dict(zip(names, arrays, strict=True)) | change))
