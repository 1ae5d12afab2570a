"""The rule that tells sampling from a wrong prediction, on shortfalls of a known law."""

import numpy as np
import pytest

from sims.lab.shortfall import is_sampling, mean_z, z_values

HEADS, TURNS = 15, 9


def shortfalls(seed, excess=0.0):
    """|cos| of heads whose vectors turn by Gaussian noise in nine directions and by `excess`, and `E sin^2` of both."""
    rng = np.random.default_rng(seed)
    sin2 = rng.uniform(0.001, 0.01, (HEADS, 2))
    noise = sin2 * rng.chisquare(TURNS, (HEADS, 2)) / TURNS
    return np.sqrt(1 - noise - excess * sin2), sin2


@pytest.mark.parametrize(("excess", "share"), [(0.0, (0.97, 1.0)), (1.0, (0.0, 0.03))])
def test_sampling_passes_and_twice_its_size_does_not(excess, share):
    found = [is_sampling(z_values(*shortfalls(seed, excess))) for seed in range(300)]
    assert share[0] <= np.mean(found) <= share[1]


def test_a_side_or_a_head_that_is_wrong_is_not_made_up_for():
    z = z_values(*shortfalls(0))
    assert is_sampling(z)
    assert not is_sampling(z * [1, 2.5])
    wild = z.copy()
    wild[0, 0] = 200
    assert not is_sampling(wild)
    assert mean_z(wild[:, 0])[1] == pytest.approx(np.sqrt(2 / HEADS))
