import jax
import numpy as np
import pytest

from proofs.theorems import t20_templates as t20
from svtheory import OneHot, Scenario, order_spectrum, predict
from svtheory.targets import order
from tests.agreement.claims import close, function

ANGLES = {False: t20.a_order, True: t20.a_keys, "both": t20.a_both}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def claimed(n, angle, sign, c):
    """Value and unit vectors of the proof, k = 1."""
    a = float(angle.subs({t20.n: n, t20.k: 1}))
    first = t20.midway if sign else t20.left
    places = np.arange(1, n + 1)
    vectors = [function(f(t20.i), t20.i, t20.a, t20.c)(places, a, c) for f in (first, t20.right)]
    value = 1 / np.tan(a) if sign else 1 / (2 * np.sin(a))
    return value, *(x / np.linalg.norm(x) for x in vectors)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("centred", ANGLES)
def test_the_first_pair(centred, sign):
    """Of the function and of the proof; where values are equal, both vectors of the plane."""
    n, angle = 7, t20.a_sign if sign and not centred else ANGLES[centred]
    found = jax.tree.map(np.asarray, order_spectrum(n, centred, sign))
    equal = np.isclose(found.values, found.values[0], rtol=1e-9)
    assert equal.sum() == (2 if centred == "both" or (sign and not centred) else 1)
    for phase in (0, 1.0)[: equal.sum()]:
        value, u, v = claimed(n, angle, sign, phase)
        assert np.isclose(found.values[0], value, rtol=1e-10)
        # the plane is turned alike on both sides
        assert close(found.left[:, equal] @ (found.right[:, equal].T @ v), u)
        assert close(found.right[:, equal] @ (found.left[:, equal].T @ u), v)


@pytest.mark.parametrize("centred", ANGLES)
def test_the_head_that_is_asked_for_an_order(centred):
    """Orthonormal features of any frequencies carry the optimum's spectrum, and softmax centres the order."""
    n, rng = 6, np.random.default_rng(0)
    X, Y = (np.linalg.qr(rng.normal(size=(8, n)))[0] for _ in range(2))
    law = OneHot(n, rng.dirichlet(np.ones(n)))
    softmax = {"objective": "softmax", "query_bias": centred == "both"} if centred else {}
    found = predict(Scenario(X, Y, order(n), law, law, **softmax))
    told = order_spectrum(n, centred)
    K = len(told.values)
    assert np.allclose(found.values[:K], told.values, rtol=1e-10)
    assert np.all(np.asarray(found.values[K:]) < 1e-10)
    omega, carried = ((s.left * s.values[None, :]) @ s.right.T for s in (found, told))
    assert close(omega, X @ np.asarray(carried) @ Y.T)


def test_no_feature_is_aligned():
    bound = function(t20.theorem.claim["no feature is aligned"].args[1].lhs, t20.n)
    for n in (1, 2, 6):
        found = order_spectrum(n)
        assert max(np.abs(found.left).max(), np.abs(found.right).max()) ** 2 <= bound(n) * (1 + 1e-10)
