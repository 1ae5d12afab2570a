import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import (
    InputError,
    alignment_bound,
    condition_number,
    conditioned_frame,
    dual_frame,
    kantorovich_bound,
    tight_frame,
)
from svtheory.geometry import (
    antipodal,
    extremal_pair,
    local_alignment_bound,
    polygon,
    spread,
    tegum,
)
from svtheory.prediction import training_condition_number


def duals_cosines(X):
    """`cos(x~_i, x_i)` in float64 from a pseudo-inverse, 1 for a zero feature."""
    X = np.asarray(X, float)
    duals = np.linalg.pinv(X.T)
    lengths = np.linalg.norm(duals, axis=0) * np.linalg.norm(X, axis=0)
    return np.where(lengths > 0, (duals * X).sum(axis=0) / np.where(lengths > 0, lengths, 1), 1)


def naive_local_bound(X):
    S, Splus = X @ X.T, np.linalg.pinv(X @ X.T)
    bounds = []
    for x in (X / np.linalg.norm(X, axis=0)).T:
        q = S @ x - (x @ S @ x) * x
        bounds.append(np.cos(np.arctan(np.linalg.norm(Splus @ q))))
    return np.array(bounds)


def random_frame(seed, D=4, N=7):
    """Directions and lengths spread over four orders of magnitude."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(D, N)) * 10 ** rng.uniform(-1, 1, size=(D, 1)) * 10 ** rng.uniform(-1, 1, size=N)


def test_kantorovich_bound(dtype, eps):
    kappa = jnp.array([1.0, 4.0, 1e6, jnp.inf])
    assert kantorovich_bound(kappa).dtype == dtype
    assert np.asarray(kantorovich_bound(kappa)) == pytest.approx([1, 0.8, 2e3 / (1 + 1e6), 0], rel=4 * eps)
    assert float(kantorovich_bound(4)) == pytest.approx(0.8)


def test_the_bound_is_the_spread():
    X = jnp.asarray(random_frame(0))
    assert float(alignment_bound(X)) == pytest.approx(float(jnp.sqrt(1 - spread(X) ** 2)), rel=1e-4)


@hypothesis.given(seed=st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=100)
def test_no_frame_violates_the_bounds(seed):
    X = random_frame(seed)
    cosines = duals_cosines(X)
    assert np.all(cosines >= float(alignment_bound(jnp.asarray(X))) - 1e-4)
    assert np.all(cosines >= np.asarray(local_alignment_bound(jnp.asarray(X))) - 1e-4)


@pytest.mark.parametrize(("D", "N", "rank"), [(5, 3, 3), (4, 4, 4), (4, 7, 4), (5, 7, 3)])
def test_bounds_below_at_and_above_D(D, N, rank, dtype, eps):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(D, rank)) @ rng.normal(size=(rank, N))
    read = jax.jit(lambda X: (condition_number(X), local_alignment_bound(X), alignment_bound(X)))
    kappa, local, bound = map(np.asarray, read(X.astype(dtype)))
    assert local.dtype == bound.dtype == dtype
    assert local == pytest.approx(naive_local_bound(X), abs=100 * eps * float(kappa) ** 0.5)
    assert np.all(duals_cosines(X) >= max(float(bound) - 10 * eps, 0))


@pytest.mark.parametrize("kappa", [1.0, 2.0, 100.0, 1e4, 1e6])
def test_the_extremal_pair_attains_the_bound(kappa, dtype, eps):
    X = extremal_pair(kappa)
    assert float(alignment_bound(X)) == pytest.approx(2 * kappa**0.5 / (1 + kappa), rel=10 * eps * kappa**0.5)
    assert duals_cosines(X) == pytest.approx([2 * kappa**0.5 / (1 + kappa)] * 2, rel=10 * eps * kappa**0.5)
    duals = dual_frame(X)
    ours = (duals * X).sum(0) / jnp.linalg.norm(duals, axis=0) / jnp.linalg.norm(X, axis=0)
    assert np.asarray(ours) == pytest.approx(np.full(2, float(alignment_bound(X))), rel=30 * eps * kappa**0.5)


def test_the_local_bound_holds_where_the_frame_operator_itself_has_lost_its_digits():
    X = conditioned_frame(jax.random.key(0), 4, 7, 1e6).astype(jnp.float32)
    assert np.all(duals_cosines(X) >= np.asarray(local_alignment_bound(X)) - 1e-3)


@pytest.mark.parametrize(
    "make", [lambda: tight_frame(jax.random.key(0), 4, 7), lambda: antipodal(3), lambda: polygon(5)]
)
def test_tight_frames_are_bound_to_align(make, dtype, eps):
    X = make()
    bound, local = jax.jit(lambda X: (alignment_bound(X), local_alignment_bound(X)))(X)
    assert float(bound) == pytest.approx(1, abs=200 * eps)
    assert np.asarray(local) == pytest.approx(np.ones(X.shape[1]), abs=200 * eps)


def test_eigenvectors_are_aligned_by_the_local_bound_alone():
    X = tegum(antipodal(1), 3 * polygon(5), jnp.zeros((1, 1)))
    assert float(alignment_bound(X)) < 0.7
    assert np.asarray(local_alignment_bound(X)) == pytest.approx(np.ones(8), abs=1e-5)


def test_bounds_under_vmap():
    stack = jnp.stack([jnp.asarray(random_frame(seed)) for seed in range(3)])
    for bound in (alignment_bound, local_alignment_bound):
        together = jax.jit(jax.vmap(bound))(stack)
        assert np.asarray(together) == pytest.approx(np.stack([bound(X) for X in stack]), rel=1e-3)


@pytest.mark.parametrize("bound", [alignment_bound, local_alignment_bound])
def test_bad_input(bound):
    with pytest.raises(InputError, match=r"X must have 2 axes, got shape \(3,\)"):
        bound(jnp.ones(3))
    with pytest.raises(InputError, match="X must be finite, got 6 entries that are not"):
        bound(jnp.full((2, 3), jnp.nan))


# kappa_t


@hypothesis.given(m=st.floats(1e-3, 1e3), ratio=st.floats(1, 1e4))
def test_training_raises_the_condition_number_from_1_to_kappa(m, ratio):
    times = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-6, 1e6, 12), jnp.array([jnp.inf])])
    kappa = np.asarray(training_condition_number(m, m * ratio, times))
    assert kappa[0] == 1
    assert kappa[-1] == pytest.approx(ratio, rel=1e-5)
    assert np.all(np.diff(kappa) >= -1e-5 * kappa[1:])


def test_training_condition_number_against_its_formula(dtype, eps):
    m, L, t = 0.3, 7.0, np.array([1e-9, 0.01, 1.0, 30.0])
    naive = L / m * np.expm1(-m * t) / np.expm1(-L * t)
    found = training_condition_number(jnp.asarray(m, dtype), jnp.asarray(L, dtype), jnp.asarray(t, dtype))
    assert found.dtype == dtype
    assert np.asarray(found) == pytest.approx(naive, rel=10 * eps)


@hypothesis.given(seed=st.integers(0, 2**32 - 1), t=st.floats(1e-3, 1e3))
def test_the_bound_holds_at_every_training_time(seed, t):
    """The flow from zero, one side isotropic: `u ~ sum_a q_a (q_a^T x)(1 - e^{-lam_a t})/lam_a`."""
    X = random_frame(seed, N=5)
    lam, Q = np.linalg.eigh(X @ X.T)
    u = Q @ ((-np.expm1(-lam * t) / lam)[:, None] * (Q.T @ X))
    cosines = (u * X).sum(axis=0) / np.linalg.norm(u, axis=0) / np.linalg.norm(X, axis=0)
    bound = kantorovich_bound(training_condition_number(lam[0], lam[-1], t))
    assert np.all(cosines >= float(bound) - 1e-5)


@pytest.mark.parametrize("frame", ["zero feature", "orthonormal", "tight", "zero", "one dimension", "generic"])
def test_the_gradient_of_the_local_bound(frame):
    """Against central differences of its formula in numpy, `1/sqrt(1 + |S^+ q|^2)`."""
    X = np.random.default_rng(0).normal(size=(3, 5))
    X[:, 2] *= frame != "zero feature"
    X = {"orthonormal": np.eye(3), "tight": np.tile(np.eye(3), 2), "zero": 0 * X, "one dimension": X[:1]}.get(frame, X)
    direction = np.random.default_rng(1).normal(size=X.shape) * (np.abs(X).sum(axis=0) > 0)

    def reference(X):
        S, lengths = X @ X.T, np.linalg.norm(X, axis=0)
        x = X / np.where(lengths > 0, lengths, 1)
        q = S @ x - (x * (S @ x)).sum(axis=0) * x
        return (1 / np.sqrt(1 + ((np.linalg.pinv(S) @ q) ** 2).sum(axis=0))).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda X: local_alignment_bound(X).sum()))(jnp.asarray(X))
    wanted = (reference(X + 1e-5 * direction) - reference(X - 1e-5 * direction)) / 2e-5
    assert np.sum(np.asarray(gradient) * direction) == pytest.approx(wanted, abs=1e-6)
