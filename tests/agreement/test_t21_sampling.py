import jax
import jax.numpy as jnp
import numpy as np
import pytest

from proofs.theorems import t21_sampling as t21
from svtheory import BernoulliUniform, Scenario, matching, optimal_omega, sampling_error
from svtheory.prediction import cosines_in_noise, hiding_threshold, noise_deviation
from svtheory.prediction.whitened import whiten
from tests.agreement.claims import close, function

KEY, SAMPLES, CONTEXTS = jax.random.key(0), 300, 200


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("pairs", [1, 2])
def test_turns_of_each_context(pairs):
    """The mean square of what each context's noise adds to a turn, on the same draws."""
    D, N = 3, 6
    X, Y = np.random.default_rng(1).normal(size=(2, D, N))
    law = BernoulliUniform(0.4, N)
    target = matching(N, N, range(2), range(2), jnp.array([3.0, 1.0 if pairs == 2 else 0.0]))
    scenario = Scenario(X, Y, target, law, law)
    found = np.stack(sampling_error(scenario, KEY, SAMPLES, CONTEXTS))
    query, key, _ = whiten(scenario)
    f, g = (np.asarray(law.sample(k, (SAMPLES,))) for k in jax.random.split(KEY))
    r, s = f @ X.T @ np.asarray(query.inverse), g @ Y.T @ np.asarray(key.inverse)
    answers = ((f @ np.asarray(target)) * g).sum(axis=1)
    outward, outward_k = (np.asarray(side.basis) * np.asarray(side.scale) for side in (query, key))
    head = outward.T @ np.asarray(optimal_omega(scenario)) @ outward_k
    U, sigma, Vt = np.linalg.svd(head)
    over = (CONTEXTS - D * D) * SAMPLES
    draws = zip(answers, r[:, :, None], s[:, :, None], strict=True)
    if pairs == 1:
        claim = t21.theorem.claim["one context"].subs(t21.D, D)  # numpy has no identity of symbolic size
        symbols = [x.subs(t21.D, D) for x in (t21.answer, t21.r, t21.s, t21.Omega, t21.u, t21.v)]
        added, formula = function(claim.lhs, *symbols), function(claim.rhs, *symbols)
        one = np.array([[side(*draw, head, U[:, :1], Vt[:1].T) for side in (added, formula)] for draw in draws])
        assert close(one[:, 0], one[:, 1])
        assert close(found[0, 0], one[:, 1].sum() / over / sigma[0] ** 2)
        return
    turn = function(turned(), t21.value_k, t21.value_l, t21.noise_lk, t21.noise_kl)
    noise = np.stack([(l - a.T @ head @ b) * (U.T @ a) @ (Vt @ b).T for l, a, b in draws])
    for k in range(2):
        others = [l for l in range(D) if l != k]
        left = sum((turn(sigma[k], sigma[l], noise[:, l, k], noise[:, k, l]) ** 2).sum() for l in others) / over
        right = sum((turn(sigma[k], sigma[l], noise[:, k, l], noise[:, l, k]) ** 2).sum() for l in others) / over
        assert close(found[:, k], [left, right])


def turned():
    """`x_l` of the claim."""
    conclusion = t21.theorem.claim["beside other modes"].args[1]
    return conclusion.rhs / (t21.value_k**2 - t21.value_l**2)


def test_white_noise():
    """The law on both sides, where its numerator is positive, and the threshold."""
    claim = t21.theorem.claim
    laws = [function(claim[name].rhs, t21.tau, t21.c) for name in t21.law]
    rng = np.random.default_rng(0)
    for _ in range(100):
        shape = tuple(int(n) for n in rng.integers(1, 40, size=2))
        deviation = float(noise_deviation(rng.uniform(0.1, 9), shape[0] * shape[1] + int(rng.integers(1, 99)), shape))
        value = float(hiding_threshold(deviation, shape)) * rng.uniform(0.5, 3)
        tau, c = value**2 / (deviation**2 * shape[1]), shape[0] / shape[1]
        wanted = [law(tau, c) if tau**2 > c else 0 for law in laws]
        assert close(1 + np.stack(cosines_in_noise(value, deviation, shape)), 1 + np.array(wanted))
        assert (tau**2 > c) == (value > hiding_threshold(deviation, shape))
