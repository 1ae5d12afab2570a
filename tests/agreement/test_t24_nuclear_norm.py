import jax
import numpy as np
import pytest
import scipy.optimize

from proofs.theorems import t24_nuclear_norm as t24
from svtheory import Scenario, predict
from tests.agreement.claims import close, function

DIM, N, M = 3, 6, 5
computed = jax.jit(predict)  # one program for all of them
loss = function(t24.loss(t24.Omega_0, t24.asked), t24.Z, t24.Z_k, t24.asked, t24.U, t24.S, t24.V)
objective = function(t24.theorem.claim["optimum"].lhs, t24.Z, t24.Z_k, t24.asked, t24.W_Q, t24.W_K, t24.g)


def least(X, Y, pull, head, g):
    """What no factors go below, by the head that is predicted."""
    return loss(X, Y, pull, head.left, np.diag(head.values), head.right) + g * head.values.sum()


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def drawn(pairs, draws=12, below=1.0):
    """Frames, a target of so many pairs or all, M and a decay below its largest value; and the predicted head."""
    rng = np.random.default_rng(pairs)
    for _ in range(draws):
        X, Y, T = rng.normal(size=(DIM, N)), rng.normal(size=(DIM, M)), np.zeros((N, M))
        T[:pairs, :pairs] = np.diag(rng.uniform(1, 3, pairs))
        pull = X @ T @ Y.T
        g = rng.uniform(0.05, below) * np.linalg.norm(pull, 2)
        yield rng, X, Y, T, pull, g, jax.tree.map(np.asarray, computed(Scenario(X, Y, T, weight_decay=g)))


def test_the_predicted_head_has_the_certificate():
    for _, X, Y, _, pull, g, head in drawn(3):
        kept = head.values > 1e-9 * head.values[0]
        U, S, V = head.left[:, kept], np.diag(head.values[kept]), head.right[:, kept]
        rest, size = pull - X @ X.T @ U @ S @ V.T @ Y @ Y.T, np.linalg.norm(pull, 2)
        for gap in (rest @ V - g * U, rest.T @ U - g * V):
            assert np.abs(gap).max() <= 1e-10 * size
        assert np.linalg.norm(rest, 2) <= g + 1e-10 * size


def test_no_factors_do_better_and_trained_ones_do_as_well():
    for rng, X, Y, _, pull, g, head in drawn(3, draws=4):
        bound = least(X, Y, pull, head, g)
        balanced = [np.sqrt(head.values)[:, None] * vectors.T for vectors in (head.left, head.right)]
        assert close(objective(X, Y, pull, *balanced, g), bound)

        def value(flat, X=X, Y=Y, pull=pull, g=g):
            W_Q, W_K = flat.reshape(2, DIM, DIM)
            slope = X @ X.T @ W_Q.T @ W_K @ Y @ Y.T - pull
            gradient = np.stack([W_K @ slope.T, W_Q @ slope]).ravel() + g * flat
            return float(objective(X, Y, pull, W_Q, W_K, g)), gradient

        start = rng.normal(size=2 * DIM * DIM)
        assert value(start)[0] > bound
        options = {"maxiter": 5000, "ftol": 0, "gtol": 1e-10}
        trained = scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
        assert close(trained.fun, bound)


def test_something_is_left_below_the_largest_value_only():
    sizes = function(t24.theorem.claim["something is left"].rhs, t24.m, t24.g, t24.kappa)
    for _, X, Y, T, pull, g, head in drawn(2, draws=4):
        m = np.linalg.norm(pull, 2)
        for share in (1.0, 1.2):
            gone = computed(Scenario(X, Y, T, weight_decay=share * m))
            assert np.abs(gone.values).max() <= 1e-10 * m
        (c, d), near = (x[:, 0] for x in (np.linalg.svd(pull)[0], np.linalg.svd(pull)[2].T)), (1 - 1e-3) * m
        kappa = (X.T @ c) @ (X.T @ c) * ((Y.T @ d) @ (Y.T @ d))
        left = jax.tree.map(np.asarray, computed(Scenario(X, Y, T, weight_decay=near)))
        bound = least(X, Y, pull, left, near)
        assert bound <= sizes(m, near, kappa) < 0
        assert np.isclose(bound, sizes(m, near, kappa), rtol=0.05)  # along M's leading pair, to leading order
        assert head.values[0] > 0 < g


def test_a_single_pair_turns_as_its_certificate_says():
    claim, of_rank_one = t24.theorem.claim, 0
    amount = function(claim["what is left of a single pair"].rhs, t24.t, t24.p, t24.q, t24.g)
    sides = [
        function(side, t24.Z, t24.a, t24.u, t24.g, t24.sigma, t24.beta)
        for side in (claim["u turns to a"].lhs, claim["u turns to a"].rhs)
    ]
    for _, X, Y, T, pull, g, head in drawn(1):
        a, b, u, v, t = X[:, :1], Y[:, :1], head.left[:, :1], head.right[:, :1], T[0, 0]
        if head.values[1] > 1e-9 * head.values[0]:
            continue
        of_rank_one += 1
        alpha, beta, size = ((X.T @ u) ** 2).sum(), ((Y.T @ v) ** 2).sum(), np.linalg.norm(pull, 2)
        assert abs(head.values[0] * alpha * beta - amount(t, (a.T @ u).item(), (b.T @ v).item(), g)) <= 1e-10 * size
        across, turned = (side(X, a, u, g, head.values[0], beta) for side in sides)
        assert np.abs(across - turned).max() <= 1e-10 * size * (a.T @ a).item()
        angles = [np.arccos(abs((x.T @ y).item()) / np.linalg.norm(x)) for x, y in ((a, u), (b, v))]
        assert np.cos(sum(angles)) >= g / size - 1e-9  # the condition of rank one
    assert of_rank_one >= 6
