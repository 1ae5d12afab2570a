import jax
import numpy as np
import pytest
import scipy.integrate

from proofs.theorems import t12_chance as t12
from svtheory import alignment_p_value, chance_alignment
from tests.agreement.claims import close


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_expected_cosine():
    claimed = t12.theorem.claim["expected |cos|"].rhs
    for dim in range(2, 103):
        assert close(chance_alignment(dim), float(claimed.subs(t12.D, dim).evalf(20)))


@pytest.mark.parametrize("dim", [3, 4, 7, 10, 33])
def test_p_value_is_the_tail_of_the_density(dim):
    density = t12.theorem.claim["density"].rhs.subs(t12.D, dim)
    as_function = lambda squared: float(density.subs(t12.x, squared).evalf(17))  # noqa: E731
    for cosine in np.linspace(0.1, 0.95, 4):
        tail, _ = scipy.integrate.quad(as_function, cosine**2, 1, epsabs=1e-13, epsrel=1e-11)
        assert np.isclose(alignment_p_value(cosine, dim), tail, rtol=1e-9, atol=1e-13)
        assert np.isclose(alignment_p_value(cosine, dim, 5), min(1, 5 * tail), rtol=1e-9, atol=1e-13)
