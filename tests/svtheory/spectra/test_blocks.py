import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from svtheory.checks import InputError
from svtheory.spectra import block_cosines, block_labels, block_sums, spectrum

D, LABELS = 7, np.array([0, 1, 1, 1, 2])
RNG = np.random.default_rng(0)
VALUES = np.array([3.0, 2.0, 2.0, 2.0, 1.0])
U, V = (ortho_group.rvs(D, random_state=seed)[:, :5] for seed in (1, 2))
FEATURES = RNG.normal(size=(D, 4))


def turned(X, seed=3):
    """Columns 1 to 3, those of the block, in another basis of their span."""
    R = np.eye(5)
    R[1:4, 1:4] = ortho_group.rvs(3, random_state=seed)
    return X @ R


def test_neighbours_within_the_tolerance_or_the_rounding_are_a_block():
    values = jnp.array([2.0, 1.999, 1.99, 1.0, 0.999, 0.0])
    assert block_labels(values).tolist() == [0, 0, 1, 2, 2, 3]
    assert block_labels(values, error=0.01).tolist() == [0, 0, 0, 1, 1, 2]
    assert block_labels(1e-30 * values, error=1e-32).tolist() == [0, 0, 0, 1, 1, 2]
    assert block_labels(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_rounding_makes_a_block_of_equal_values():
    s = spectrum(np.diag(VALUES) @ U.T, V.T)
    assert block_labels(s.values, D * np.finfo(np.float32).eps * s.values[0]).tolist() == LABELS.tolist()


def test_the_term_of_a_block_does_not_know_its_basis():
    """Terms sigma_k (u_k . r)(v_k . s) change with the basis, the sums of blocks do not."""
    r, s = RNG.normal(size=(2, 6, D))
    terms = [(r @ u) * VALUES * (s @ v) for u, v in ((U, V), (turned(U), turned(V)))]
    assert np.abs(terms[0] - terms[1])[:, 1:4].max() > 0.1
    found, other = (np.asarray(block_sums(x, LABELS)) for x in terms)
    np.testing.assert_allclose(found, other, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], terms[0][:, 1:4].sum(axis=1), rtol=1e-5)
    assert not found[:, 2:4].any()
    np.testing.assert_allclose(found.sum(axis=1), terms[0].sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("made", [lambda X: X, turned, lambda X: X * np.geomspace(1e-3, 1e3, 5)])
def test_features_are_compared_with_the_span_of_a_block(made):
    unit = FEATURES / np.linalg.norm(FEATURES, axis=0)
    expected = np.abs(U.T @ unit)
    expected[1:4] = np.linalg.norm(U[:, 1:4].T @ unit, axis=0)
    np.testing.assert_allclose(block_cosines(made(U), LABELS, FEATURES), expected, atol=1e-5)


def test_vectors_of_a_block_need_not_be_orthogonal():
    """Patterns: the length of the projection on their span, by least squares."""
    skew = U.copy()
    skew[:, 1:4] = U[:, 1:4] @ RNG.normal(size=(3, 3))
    unit = FEATURES / np.linalg.norm(FEATURES, axis=0)
    on_span = skew[:, 1:4] @ np.linalg.lstsq(skew[:, 1:4], unit, rcond=None)[0]
    found = np.asarray(block_cosines(skew, LABELS, FEATURES))
    np.testing.assert_allclose(found[1:4], np.linalg.norm(on_span, axis=0)[None].repeat(3, 0), atol=1e-4)


def test_float64_is_followed_under_jit():
    with jax.enable_x64(True):
        assert jax.jit(block_cosines)(jnp.asarray(U), LABELS, FEATURES).dtype == jnp.float64


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"labels must be whole numbers of shape \(5,\), one for each of vectors, got"):
        block_cosines(U, LABELS[:3], FEATURES)
    with pytest.raises(InputError, match="one for each of terms, got float32"):
        block_sums(VALUES, VALUES)
