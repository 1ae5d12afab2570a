import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proofs.theorems import t18_plane_of_probes as t18
from svtheory import BernoulliUniform, Gaussian, Scenario, predict_finite
from svtheory.prediction.finite import probe_plane
from tests.agreement.claims import close, frames, function


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


PROBE = t18.probe.statement.rhs


@pytest.mark.parametrize("mean", [False, True])
def test_probes(mean):
    """The directions in which a side is solved span the theorem's Q, with E r among it where nothing is centred."""
    claimed = function(PROBE, t18.Z, t18.V)
    computed = jax.jit(probe_plane, static_argnames="mean")
    for rng, X, _, T in list(frames(4))[::5]:
        law = BernoulliUniform(rng.uniform(0.1, 1, X.shape[1]), X.shape[1])
        matched, root = np.linalg.qr(T)[0][:, :1], np.asarray(law.covariance_root())
        Z, V = X @ root, root.T @ matched
        if mean:  # E r = Z Z^+ E r is seen as the covariance with another activation
            V = np.column_stack([V, np.linalg.pinv(Z, rcond=1e-10) @ X @ np.asarray(law.mean())])
            if np.linalg.matrix_rank(np.column_stack([Z, X @ np.asarray(law.mean())]), 1e-10) > np.linalg.matrix_rank(
                Z, 1e-10
            ):
                continue
        found, asked = computed(X, law, matched, mean=mean)
        assert close(projection(np.asarray(found)[:, np.asarray(asked)]), projection(pseudo(claimed, Z, V)))


def pseudo(claimed, Z, V):
    """The claim's value, whose pseudo-inverse of Z cuts what is rounding."""
    U, s, Vt = np.linalg.svd(Z, full_matrices=False)
    kept = s > 1e-10 * s[0]
    return claimed((U[:, kept] * s[kept]) @ Vt[kept], V)


def projection(basis):
    U, s, _ = np.linalg.svd(basis, full_matrices=False)
    U = U[:, s > 1e-10 * s[0]]
    return U @ U.T


def test_the_head_found_is_its_own_conditional_mean():
    """`Q B^T Omega B' P^T` of the softmax head at strong logits, a mean and no query bias, is that head."""
    rng = np.random.default_rng(0)
    D, N = 4, 6
    X, Y = rng.normal(size=(2, D, N))
    law = Gaussian(jnp.full(N, 0.7), jnp.diag(jnp.linspace(0.5, 2, N)))
    target = np.zeros((N, N))
    target[0, 1] = 8.0
    found = predict_finite(Scenario(X, Y, target, law, law, "softmax", n_keys=3), jax.random.key(0), 500, pairs=1)
    head = np.asarray(found.left) * np.asarray(found.values) @ np.asarray(found.right).T
    root, mean = np.asarray(law.covariance_root()), np.asarray(law.mean())
    Z, Z_k, probe = X @ root, Y @ root, function(PROBE, t18.Z, t18.V)
    Q = probe(Z, np.column_stack([root.T[:, 0], np.linalg.pinv(Z) @ X @ mean]))
    P = probe(Z_k, root.T[:, 1:2])
    symbols = t18.Z, t18.Z_k, t18.Q, t18.P, t18.W, t18.W_k, t18.Omega
    read = function(t18.plane, *symbols)
    assert close(read(Z, Z_k, Q, P, Z.T @ Q, Z_k.T @ P, head), head)
    alone = Q[:, :1]
    assert not close(read(Z, Z_k, alone, P, Z.T @ alone, Z_k.T @ P, head), head)
