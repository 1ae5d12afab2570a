"""Both nulls of T11: against their leading terms, their p-values where chance holds, and heads that are sparse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import (
    Head,
    InputError,
    decompose,
    relative_attention,
    rotation_null,
    treves_rolls,
)
from svtheory.heads import common_rotation_sparseness, independent_rotation_sparseness

K, D, T = 24, 32, 6


def haar(rng, n):
    Q, R = np.linalg.qr(rng.normal(size=(n, n)))
    return Q * np.sign(np.diag(R))


def made(rng, values=None):
    """A head with Haar singular vectors."""
    U, V = haar(rng, D)[:, :K], haar(rng, D)[:, :K]
    root = np.sqrt(np.ones(K) if values is None else values)
    return Head(*(jnp.asarray(root[:, None] * W.T, np.float32) for W in (U, V)))


@jax.jit
def sparseness_of(d):
    return treves_rolls(relative_attention(d))


def test_means_are_those_of_the_leading_terms():
    rng = np.random.default_rng(0)
    values = np.linspace(2, 1, K)
    x = jnp.asarray(rng.normal(size=(T, D)), np.float32)
    d = decompose(made(rng, values), x, x, jnp.zeros(T, int))
    common, independent = (rotation_null(d, jax.random.key(0), 200, kind) for kind in ("common", "independent"))
    np.testing.assert_allclose(np.asarray(common.sparseness)[1:], np.asarray(sparseness_of(d))[1:])
    a, z = np.asarray(d.query), np.asarray(jax.jit(lambda d: d.relative_key())(d))
    rho = (a * z).sum(axis=1) / np.linalg.norm(a, axis=1) / np.where(np.arange(T) > 0, np.linalg.norm(z, axis=1), 1)
    # the leading terms are exceeded by about 4 parts in K, and 3 in the effective number
    expected = np.asarray(jax.jit(common_rotation_sparseness)(rho))[1:] * (1 + 4 / K)
    common, independent = (jax.tree.map(np.asarray, null) for null in (common, independent))
    np.testing.assert_allclose(common.null_sparseness[1:], expected, rtol=0.06)
    leading = jax.tree.map(np.asarray, jax.jit(independent_rotation_sparseness)(values))
    np.testing.assert_allclose(
        independent.null_sparseness[1:], leading.sparseness * (1 + 3 / leading.effective_number), rtol=0.06
    )
    np.testing.assert_allclose(independent.head_null.mean(), independent.null_sparseness[1:].mean(), rtol=1e-4)


def test_the_first_query_has_no_decision_and_zero_heads_have_no_p_value():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(T, D)), np.float32)
    null = rotation_null(decompose(made(rng), x, x, None), jax.random.key(0), 19, "common")
    assert np.isnan(null.sparseness[0])
    assert np.isnan(null.p_value[0])
    assert np.isfinite(null.p_value[1:]).all()
    zero = Head(jnp.zeros((K, D)), jnp.zeros((K, D)))
    assert np.isnan(rotation_null(decompose(zero, x, x, None), jax.random.key(0), 19, "common").head_p_value)


@pytest.mark.parametrize("kind", ["common", "independent"])
def test_p_values_are_uniform_where_chance_holds(kind):
    """Heads with Haar singular vectors and equal values: both nulls hold, for heads and for decisions."""
    rng = np.random.default_rng(2)
    heads = jax.tree.map(lambda *W: jnp.stack(W), *(made(rng) for _ in range(40)))
    x = jnp.asarray(rng.normal(size=(40, T, D)), np.float32)
    keys = jax.random.split(jax.random.key(3), 40)

    def p_values(given):
        head, tokens, key = given
        null = rotation_null(decompose(head, tokens, tokens, jnp.zeros(T, int)), key, 39, kind)
        return null.head_p_value, null.p_value[1:]

    of_heads, of_decisions = jax.jit(lambda given: jax.lax.map(p_values, given))((heads, x, keys))
    for p in (of_heads, of_decisions[:, 2]):
        # mean 1/2 + 1/(2 * 40), standard deviation 0.29
        assert abs(float(p.mean()) - 0.5125) < 4 * 0.29 / np.sqrt(40)


def test_a_head_whose_singular_vectors_are_the_features_is_sparser_than_chance():
    """Tokens of one feature each: a decision is one term, S = 1/K up to the keys' mean."""
    rng = np.random.default_rng(4)
    U = haar(rng, D)[:, :K]
    # distinct values, or the decomposition would be in any basis
    root = np.sqrt(np.linspace(2, 1, K))[:, None]
    head = Head(*(jnp.asarray(root * U.T, np.float32),) * 2)
    x = jnp.asarray(U.T[rng.integers(0, K, (8, T))], np.float32)
    d = decompose(head, x, x, None)
    for kind in ("common", "independent"):
        null = rotation_null(d, jax.random.key(0), 99, kind)
        assert null.head_p_value == pytest.approx(0.01)
        assert null.head_sparseness < 0.12 < 0.3 < null.head_null.min()


def test_gaussian_inputs_have_the_moments_and_choose_their_key():
    """Against numpy: Gaussian inputs of the pooled mean and covariance, in the head's own singular vectors."""
    rng = np.random.default_rng(6)
    values = np.linspace(2, 0.5, K)
    x = jnp.asarray(0.3 + rng.exponential(size=(5, T, D)) * np.geomspace(1, 0.1, D), np.float32)
    d = decompose(made(rng, values), x, x, None)
    found = rotation_null(d, jax.random.key(0), 400, "gaussian")
    np.testing.assert_allclose(np.asarray(found.sparseness)[:, 1:], np.asarray(sparseness_of(d))[:, 1:])
    sides = [np.asarray(side, float).reshape(-1, K) for side in (d.query, d.keys)]

    def drawn():
        a, b = (rng.multivariate_normal(s.mean(0), np.cov(s.T, bias=True), size=(5, T), method="eigh") for s in sides)
        S = []
        for queries, keys in zip(a, b, strict=True):
            for i in range(1, T):
                terms = queries[i] * keys[: i + 1]
                j = terms.sum(axis=1).argmax()
                c = np.abs(terms[j] - np.delete(terms, j, axis=0).mean(axis=0))
                S.append(c.mean() ** 2 / (c**2).mean())
        return np.mean(S)

    expected = [drawn() for _ in range(200)]
    error = np.sqrt(np.var(expected) / 200 + np.var(found.head_null) / 400)
    assert abs(found.head_null.mean() - np.mean(expected)) < 4 * error


def test_decisions_that_are_only_rounding_are_left_out():
    """A query that the head does not read has terms of rounding; their sparseness is nobody's."""
    rng = np.random.default_rng(7)
    basis = haar(rng, D)
    head = Head(*(jnp.asarray(W @ basis[:, :K].T, np.float32) for W in rng.normal(size=(2, K, K))))
    x = rng.normal(size=(T, D)) @ basis.T
    x[3] = basis[:, K:] @ rng.normal(size=D - K)
    x = jnp.asarray(x, np.float32)
    null = rotation_null(decompose(head, x, x, None), jax.random.key(0), 19, "common")
    assert np.isnan(null.sparseness).tolist() == [True, False, False, True, False, False]
    assert np.isnan(null.p_value[3])


def test_bad_input_is_named():
    x = jnp.ones((T, D))
    d = decompose(made(np.random.default_rng(5)), x, x, None)
    with pytest.raises(InputError, match="draws must be a whole number of at least 1, got 0"):
        rotation_null(d, jax.random.key(0), 0, "common")
    with pytest.raises(InputError, match="kind must be one of 'common', 'independent', 'gaussian', got 'haar'"):
        rotation_null(d, jax.random.key(0), 9, "haar")
