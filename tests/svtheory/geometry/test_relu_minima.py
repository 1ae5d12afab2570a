import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims.engines.descent import descend
from svtheory import InputError
from svtheory.geometry import STATES, relu_energy, relu_states, relu_thresholds
from svtheory.geometry.columns import unit_columns
from svtheory.geometry.relu_minima import _energy, changes, envelope, state

RNG = np.random.default_rng(0)


def test_the_slope_is_the_energy_s():
    x = np.append(RNG.normal(size=12), RNG.uniform(0.05, 0.3, size=4))
    for matched in range(3):
        _, slope = _energy(x, 3, 0.7, matched)
        step = 1e-6 * np.eye(x.size)
        seen = [(_energy(x + dx, 3, 0.7, matched)[0] - _energy(x - dx, 3, 0.7, matched)[0]) / 2e-6 for dx in step]
        assert np.allclose(slope, seen, atol=1e-7)


@pytest.mark.parametrize(("features", "dim", "energy"), [(7, 4, 0.41649), (8, 4, 1.26795), (9, 5, 0.33572)])
def test_the_least_interference_of_the_others(features, dim, energy):
    """A pentagon, a hexagon and seven vectors in three dimensions."""
    assert np.isclose(relu_states(features, dim, 0.3, starts=6).reconstruction[-1], energy, atol=1e-5)


def test_states_at_one_coupling():
    """D = 4, N = 8, g = 0.3: what each is, and that its energy is that of its features at their best biases."""
    found = relu_states(8, 4, 0.3, starts=6)
    assert found.features.shape == (4, 4, 8)
    assert np.allclose(np.linalg.norm(found.features, axis=1), 1)
    assert [STATES[k] for k in state(found.crowding)] == list(STATES)
    assert np.allclose(found.crowding[[0, 3]], [[2, 2], [1, 1]])
    assert np.allclose(found.crowding[1:3], [[1.505, 1.505], [1, 2.085]], atol=2e-3)
    with jax.enable_x64():
        energies = [float(relu_energy(W, 0.3)) for W in found.features]
    assert np.allclose(found.energy(0.3), energies, rtol=1e-7)
    assert np.allclose(found.energy(np.array([0.0, 1.0]))[1], energies + 0.7 * (found.crowding.prod(axis=1) - 1))
    again = relu_states(8, 4, 0.3, starts=6)
    assert np.array_equal(found.features, again.features)


def test_thresholds():
    """At N = 2D, D = 4, superposed to 0.157 and orthogonalised from 1.041; at N = 2D - 1 one-sided at any small g."""
    leaves, arrives, known = relu_thresholds(8, 4, starts=4)
    assert np.allclose([leaves, arrives], [0.157, 1.041], rtol=0.01)
    energy, crowding = envelope(known, np.array([0.1, 0.25, 0.7, 2.0]))
    assert [STATES[k] for k in state(crowding)] == list(STATES)
    assert np.isclose(energy[0], 0.3)
    leaves, arrives, known = relu_thresholds(7, 4, starts=4)
    assert np.isnan(leaves)
    assert np.isclose(arrives, 0.41649, rtol=0.01)  # s = (1, 2): the pentagon is worth a leakage of g
    assert np.allclose(envelope(known, np.array([0.02]))[1], [[1, 2]])


def test_changes_that_are_not_seen():
    g = np.array([1.0, 2.0, 4.0])
    assert np.isnan(changes(g, np.array([0, 0, 0]))).all()
    assert np.isnan(changes(g, np.array([3, 3, 3]))).all()
    assert np.allclose(changes(g, np.array([0, 3, 3])), 2**0.5)
    assert np.allclose(changes(g, np.array([0, 3, 1])), [2**0.5, np.nan], equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "couplings"), [(4, (0.1, 0.2, 0.5, 0.9, 1.2)), (6, (0.1, 0.125, 0.16))])
def test_no_descent_finds_a_lower_state(dim, couplings):
    """`relu_energy` itself, from 64 random starts without a state's symmetry, ends in none lower than the four."""
    with jax.enable_x64():
        start = jnp.asarray(np.random.default_rng(1).normal(size=(64, dim, 2 * dim)))
        keys = jax.random.split(jax.random.key(0), 64)
        for g in couplings:
            weights, _ = descend(_free, start, keys, 400, jnp.full(64, g))
            free = np.asarray(jax.jit(jax.vmap(_free))(weights, jnp.full(64, g))).min()
            least = relu_states(2 * dim, dim, g, starts=64).energy(g).min()
            assert free >= least - 1e-6
            assert np.isclose(free, least, rtol=0.02)


def _free(W, g):
    return relu_energy(unit_columns(W), g)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (relu_states, (8, 2, 1.0), "dim"),
        (relu_states, (2, 4, 1.0), "n_features"),
        (relu_states, (8, 4, -1.0), "coupling must be at least 0, got -1"),
        (relu_states, (8, 4, 1.0, 0), "starts"),
        (relu_thresholds, (9, 4), "n_features must be at most 2 dim = 8, got 9"),
        (relu_thresholds, (6, 4), "n_features"),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(InputError, match=message):
        function(*arguments)
