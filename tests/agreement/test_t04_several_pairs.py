import jax
import numpy as np
import pytest

from proofs.theorems import t04_several_pairs as t04
from svtheory import Scenario, predict
from tests.agreement.claims import close, function

SHAPES = ((5, 3, 4), (4, 4, 4), (4, 7, 6), (5, 4, 8))  # D, N, M: below, at and above D
DRAWS = 25
PAIRS = 2


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def _frame(rng, dim, size, deficient):
    """Columns of which the first PAIRS have orthogonal duals; the others share what is left of the space, or less."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    room = dim - PAIRS - deficient
    paired = basis[:, :PAIRS] * rng.uniform(0.5, 2, PAIRS)
    return np.hstack([paired, basis[:, PAIRS : PAIRS + room] @ rng.normal(size=(room, size - PAIRS))])


def _skewed(rng, dim, size):
    """Independent columns that are not orthogonal, while the first PAIRS of their duals are."""
    duals = np.hstack([np.linalg.qr(rng.normal(size=(dim, PAIRS)))[0], rng.normal(size=(dim, size - PAIRS))])
    return np.linalg.pinv(duals * rng.uniform(0.5, 2, size)).T


def _frames():
    rng = np.random.default_rng(4)
    for dim, *sizes in SHAPES:
        for draw in range(DRAWS):
            yield (
                rng,
                *(
                    _skewed(rng, dim, size) if size <= dim and draw % 3 == 0 else _frame(rng, dim, size, draw % 2)
                    for size in sizes
                ),
            )


def test_orthogonal_duals_are_the_singular_vectors():
    sigma = function(t04.theorem.claim["sigma"].rhs, t04.P, t04.tau, t04.signs, t04.Q)
    left = function(t04.theorem.claim["left"].rhs, t04.A, t04.P_inverse)
    right = function(t04.theorem.claim["right"].rhs, t04.B, t04.Q_inverse, t04.signs)
    computed = predict
    for rng, X, Y in _frames():
        strength = rng.normal(size=PAIRS)
        target = np.zeros((X.shape[1], Y.shape[1]))
        target[range(PAIRS), range(PAIRS)] = strength
        A, B = np.linalg.pinv(X).T[:, :PAIRS], np.linalg.pinv(Y).T[:, :PAIRS]
        P, Q = (np.diag(np.linalg.norm(duals, axis=0)) for duals in (A, B))
        signs = np.diag(np.sign(strength))
        values = np.diag(sigma(P, np.diag(strength), signs, Q))
        U, V = left(A, np.linalg.inv(P)), right(B, np.linalg.inv(Q), signs)
        order = np.argsort(-values)
        spectrum = computed(Scenario(X, Y, target))
        assert close(spectrum.values[:PAIRS], values[order])
        for k, pair in enumerate(order):
            found = np.outer(spectrum.left[:, k], spectrum.right[:, k])
            assert np.abs(found - np.outer(U[:, pair], V[:, pair])).max() <= 1e-10 * spectrum.values[0] / min(values)


def test_one_query_feature_with_several_orthonormal_keys():
    squared_cosine = function(t04.theorem.claim["one query feature, several keys: cosine"].rhs, t04.t_row, t04.e_j)
    computed = predict
    rng = np.random.default_rng(5)
    for draw in range(100):
        dim, keys = 5, 2 + draw % 4
        X = rng.normal(size=(dim, 3 + draw % 4)) * (np.arange(dim) < dim - draw % 2)[:, None]
        Y, row = np.linalg.qr(rng.normal(size=(dim, keys)))[0], rng.normal(size=keys)
        target = np.zeros((X.shape[1], keys))
        target[0] = row
        v = computed(Scenario(X, Y, target)).right[:, 0]
        wanted = [squared_cosine(row[:, None], e_j[:, None]) for e_j in np.eye(keys)]
        assert close((Y.T @ v) ** 2, wanted)
