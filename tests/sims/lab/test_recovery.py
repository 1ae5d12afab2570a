import jax
import numpy as np
import pytest

from sims.lab.recovery import recovery
from svtheory import BernoulliUniform


def test_a_probe_turns_back_into_its_feature():
    """`K (K^-1 x) = x`: the probe of a feature turns back into it."""
    with jax.enable_x64(True):
        law = BernoulliUniform(0.3, 6)
        X = jax.random.normal(jax.random.key(0), (4, 6))
        K = np.asarray(X @ law.covariance() @ X.T)
        probe = np.linalg.solve(K, X[:, :1])
        (cosines,), (share,) = jax.jit(recovery)(probe / np.linalg.norm(probe), X, law)
        x, mean = np.asarray(X)[:, 0], np.asarray(X).sum(axis=1)
        assert cosines[0] == pytest.approx(abs(x @ probe[:, 0]) / np.linalg.norm(x) / np.linalg.norm(probe))
        assert cosines[1:] == pytest.approx(1)
        assert share == pytest.approx((x @ mean) ** 2 / (x @ x) / (mean @ mean))
