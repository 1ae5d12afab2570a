import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from svtheory import InputError, Scenario, conditioned_frame, matching, optimal_omega, spectrum
from svtheory.spectra import BalancedSpectrum, Tokens, balanced_spectrum

D, H, K = 5, 3, 3
RNG = np.random.default_rng(0)


def head(seed=0, dim=D, keys=D, head_dim=H):
    rng = np.random.default_rng(seed)
    moment = lambda n: (lambda R: R.T @ R / 9)(rng.normal(size=(9, n)))  # noqa: E731
    return rng.normal(size=(head_dim, dim)), rng.normal(size=(head_dim, keys)), moment(dim), moment(keys)


def naive(W_Q, W_K, A, B):
    """Symmetric roots, the whole matrix, and its decomposition."""
    a, b = (np.real(scipy.linalg.sqrtm(M)) for M in (A, B))
    U, values, Vt = np.linalg.svd(a @ W_Q.T @ W_K @ b)
    K = min(len(W_Q), len(A), len(B))
    U, V = U[:, :K], Vt[:K].T
    return values[:K], a @ U, np.linalg.pinv(a, rcond=1e-10) @ U, b @ V, np.linalg.pinv(b, rcond=1e-10) @ V


def up_to_sign(a, b, tolerance):
    """Columns equal up to a common sign."""
    signs = np.sign((np.asarray(a) * np.asarray(b)).sum(axis=0, keepdims=True))
    return np.allclose(a, signs * b, rtol=0, atol=tolerance)


def exactly(*given, function=balanced_spectrum):
    """In float64, as numpy arrays."""
    with jax.enable_x64():
        return jax.tree.map(np.asarray, function(*given))


@pytest.mark.parametrize(("dim", "keys", "head_dim"), [(5, 5, 3), (4, 6, 2), (3, 5, 8)])
def test_against_symmetric_roots(dtype, dim, keys, head_dim):
    given = head(1, dim, keys, head_dim)
    tolerance = 1e3 * jnp.finfo(dtype).eps
    found = balanced_spectrum(*(jnp.asarray(x, dtype) for x in given))
    values, *modes = naive(*given)
    assert found.values.dtype == dtype
    assert np.allclose(found.values, values, rtol=0, atol=tolerance * values[0])
    for name, wanted in zip(("query_patterns", "query_probes", "key_patterns", "key_probes"), modes, strict=True):
        assert up_to_sign(getattr(found, name), wanted, tolerance * np.abs(wanted).max()), name


def test_without_anisotropy_it_is_the_spectrum(dtype):
    W_Q, W_K, *_ = (jnp.asarray(x, dtype) for x in head())
    identity = jnp.eye(D, dtype=dtype)
    found, raw = balanced_spectrum(W_Q, W_K, identity, identity), spectrum(W_Q, W_K)
    tolerance = 100 * jnp.finfo(dtype).eps
    assert np.allclose(found.values, raw.values, atol=tolerance * raw.values[0])
    assert np.allclose(found.gaps, raw.gaps, atol=tolerance * raw.values[0])
    for vectors in (found.query_patterns, found.query_probes):
        assert up_to_sign(vectors, raw.left, tolerance)


def test_probes_and_patterns_are_biorthogonal_and_rebuild_the_head(dtype):
    W_Q, W_K, A, B = (jnp.asarray(x, dtype) for x in head())
    s = balanced_spectrum(W_Q, W_K, A, B)
    tolerance = 1e3 * jnp.finfo(dtype).eps
    assert np.allclose(s.query_probes.T @ s.query_patterns, np.eye(K), atol=tolerance)
    assert np.allclose(s.key_probes.T @ s.key_patterns, np.eye(K), atol=tolerance)
    omega = W_Q.T @ W_K
    assert np.allclose((s.query_probes * s.values[None, :]) @ s.key_probes.T, omega, atol=tolerance * abs(omega).max())


def test_values_are_the_moments_of_the_logits():
    """`sum sigma~^2 = E (r^T Omega s)^2` over independent tokens."""
    W_Q, W_K, *_ = head()
    r, s = np.random.default_rng(1).normal(size=(2, 40, D))
    found = exactly(W_Q, W_K, Tokens(r), Tokens(s))
    assert np.isclose((found.values**2).sum(), ((r @ W_Q.T @ W_K @ s.T) ** 2).mean(), rtol=1e-12)


@pytest.mark.parametrize("n", [3, 5, 40])
def test_tokens_are_their_moment(n):
    W_Q, W_K, *_ = head()
    r, s = np.random.default_rng(2).normal(size=(2, n, D))
    sampled = exactly(W_Q, W_K, Tokens(r), Tokens(s))
    given = exactly(W_Q, W_K, r.T @ r / n, s.T @ s / n)
    assert np.allclose(sampled.values, given.values[: len(sampled.values)], atol=1e-12 * given.values[0])
    for name in ("query_patterns", "query_probes", "key_patterns", "key_probes"):
        assert up_to_sign(getattr(sampled, name), getattr(given, name), 1e-9), name


def test_what_tokens_never_visit_is_not_read():
    W_Q, W_K, *_ = head()
    U = np.linalg.qr(np.random.default_rng(3).normal(size=(D, 4)))[0]
    A = U @ np.diag([4.0, 2, 1, 0.5]) @ U.T
    s = exactly(W_Q, W_K, A, np.eye(D))
    inside = U @ U.T
    assert np.allclose(inside @ s.query_patterns, s.query_patterns, atol=1e-12)
    assert np.allclose(inside @ s.query_probes, s.query_probes, atol=1e-12)
    assert np.allclose((s.query_probes * s.values) @ s.key_probes.T, inside @ W_Q.T @ W_K, atol=1e-12)


@hypothesis.given(st.integers(0, 2**31), st.floats(0, 2))
def test_a_change_of_basis_carries_patterns_and_leaves_values(seed, spread):
    """`r -> G r`: values stay, patterns go with G, probes with its inverse transpose, G of condition up to 1e4."""
    rng = np.random.default_rng(seed)
    W_Q, W_K, A, B = head(7)
    U, V = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    G = U @ np.diag(10 ** np.linspace(-spread, spread, D)) @ V
    back = np.linalg.inv(G)
    before = exactly(W_Q, W_K, A, B, function=JITTED)
    after = exactly(W_Q @ back, W_K @ back, G @ A @ G.T, G @ B @ G.T, function=JITTED)
    assert np.allclose(after.values, before.values, rtol=0, atol=1e-8 * before.values[0])
    for side in ("query", "key"):
        for kind, map_ in (("patterns", G), ("probes", back.T)):
            wanted, found = map_ @ getattr(before, f"{side}_{kind}"), getattr(after, f"{side}_{kind}")
            assert up_to_sign(found, wanted, 1e-8 * np.abs(wanted).max())


JITTED = jax.jit(balanced_spectrum)


@pytest.mark.parametrize("condition", [1, 100, 1e4])
def test_independent_features_are_patterns_where_raw_vectors_are_not(condition):
    """T22: uncorrelated centred activations, distinct strengths: every matched feature exactly, at any angles."""
    N, pairs = 6, 3
    with jax.enable_x64():
        X, Y = (conditioned_frame(key, N, N, condition) for key in jax.random.split(jax.random.key(3)))
        omega = optimal_omega(Scenario(X, Y, matching(N, N, range(pairs), range(pairs), jnp.array([3.0, 2.0, 1.0]))))
        found = balanced_spectrum(jnp.eye(N), omega, X @ X.T, Y @ Y.T)
        raw = spectrum(jnp.eye(N), omega)

    def cosine(vectors, features):
        vectors, features = np.asarray(vectors)[:, :pairs], np.asarray(features)[:, :pairs]
        products = (vectors * features).sum(axis=0)
        return np.abs(products) / np.linalg.norm(vectors, axis=0) / np.linalg.norm(features, axis=0)

    for patterns, vectors, features in ((found.query_patterns, raw.left, X), (found.key_patterns, raw.right, Y)):
        assert np.all(1 - cosine(patterns, features) < 1e-8)
        assert np.all(cosine(vectors, features) > 1 - 1e-8) == (condition == 1)
    assert np.allclose(found.values[:pairs], [3, 2, 1], atol=1e-8)


def test_many_heads_and_derivatives():
    W_Q, W_K, A, B = (jnp.asarray(x, jnp.float32) for x in head())
    many = jax.jit(jax.vmap(balanced_spectrum, in_axes=(0, 0, None, None)))
    stacked = many(jnp.stack([W_Q, 2 * W_Q]), jnp.stack([W_K, W_K]), A, B)
    assert isinstance(stacked, BalancedSpectrum)
    assert np.allclose(stacked.values[1], 2 * stacked.values[0], rtol=1e-5)
    slope = jax.jit(jax.grad(lambda c: balanced_spectrum(c * W_Q, W_K, A, B).values.sum()))(1.0)
    assert np.isclose(slope, balanced_spectrum(W_Q, W_K, A, B).values.sum(), rtol=1e-4)


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_sizes_that_float32_holds(size):
    W_Q, W_K, A, B = (x.astype(np.float32) for x in head())
    found, unit = balanced_spectrum(W_Q * size, W_K, A * size**2, B / size**2), balanced_spectrum(W_Q, W_K, A, B)
    assert np.allclose(found.values, unit.values * size, rtol=1e-4)
    assert up_to_sign(found.query_patterns / size, unit.query_patterns, 1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_K": np.ones((2, D))}, "W_K must have 3 rows"),
        ({"query_moment": np.eye(4)}, r"query_moment must have shape \(5, 5\)"),
        ({"query_moment": np.triu(np.ones((D, D)))}, "query_moment must be symmetric"),
        ({"key_moment": -np.eye(D)}, "key_moment must be positive semi-definite"),
        ({"key_moment": Tokens(np.ones((7, 4)))}, "key_moment.tokens must have 5 columns"),
        ({"key_moment": np.full((D, D), np.nan)}, "key_moment must be finite"),
    ],
)
def test_bad_input(change, message):
    W_Q, W_K, A, B = (x.astype(np.float32) for x in head())
    given = {"W_Q": W_Q, "W_K": W_K, "query_moment": A, "key_moment": B, **change}
    given = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    with pytest.raises(InputError, match=message):
        balanced_spectrum(**given)
