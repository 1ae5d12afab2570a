from functools import partial

import jax
import numpy as np

from sims.models.tied import lines, losses, present
from svtheory import relu_energy

D, N, TOKENS = 3, 5, 20_000
RNG = np.random.default_rng(0)
LOSSES, ENERGY = jax.jit(losses, static_argnums=4), jax.jit(relu_energy)


def features():
    W = RNG.normal(size=(D, N))
    return W / np.linalg.norm(W, axis=0)


def test_tokens_with_a_feature():
    """Against tokens drawn as they come, those without a feature thrown away: moments within 4 standard errors."""
    f, empty = (np.asarray(x) for x in jax.jit(present, static_argnums=(2, 3))(jax.random.key(0), 0.3, N, TOKENS))
    assert np.isclose(empty, 0.7**N)
    assert (f > 0).any(axis=0).all()
    drawn = np.where(RNG.random((N, 10 * TOKENS)) < 0.3, RNG.random((N, 10 * TOKENS)), 0)
    drawn = drawn[:, drawn.any(axis=0)]
    for statistic in (lambda f: f, lambda f: f > 0, lambda f: f[[0]] * f, lambda f: (f > 0).sum(axis=0)[None]):
        ours, theirs = statistic(f), statistic(drawn)
        error = np.sqrt(ours.var(axis=1) / ours.shape[1] + theirs.var(axis=1) / theirs.shape[1])
        assert (np.abs(ours.mean(axis=1) - theirs.mean(axis=1)) <= 4 * error).all()


def test_losses_by_drawing_tokens():
    """The reconstruction within 4 standard errors; the head's is exact, its pairs of tokens drawn here."""
    W, b = features(), RNG.normal(size=N) / 5
    found = LOSSES(3 * W, b, jax.random.key(1), 0.3, TOKENS)
    f, other = (np.where(RNG.random((N, 400_000)) < 0.3, RNG.random((N, 400_000)), 0) for _ in range(2))
    missed = ((f - np.maximum(W.T @ W @ f + b[:, None], 0)) ** 2).sum(axis=0)
    assert abs(missed.mean() - found.reconstruction) <= 4 * missed.std() / TOKENS**0.5
    off = (W[:, 0] @ W @ f * (W[:, 1] @ W @ other) - f[0] * other[1]) ** 2 / 2
    assert abs(off.mean() - found.attention) <= 4 * off.std() / off.size**0.5


def test_rare_features_cost_what_theory_says():
    """Over E[f^2]: `E_R` within 4 standard errors and `s_0 s_1 - 1` to rounding, as p falls to 0 (T19)."""
    W, b = features(), RNG.uniform(0, 0.4, size=N)
    with jax.enable_x64():
        keys = jax.random.split(jax.random.key(2), 20)
        reconstruction, leakage = (np.asarray(x) for x in jax.jit(partial(lines, keys, 2000))(W, -b, 1e-9))
        energies = [float(ENERGY(W, g, b)) for g in (0.0, 1.0)]
    assert abs(reconstruction.mean() - energies[0]) <= 4 * reconstruction.std(ddof=1) / 20**0.5
    assert np.isclose(leakage, energies[1] - energies[0], rtol=1e-7)
