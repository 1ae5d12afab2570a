import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import BernoulliUniform, Gaussian, InputError, OneHot
from svtheory.factorisations import symmetric_root
from svtheory.laws import Law

DRAWS = 20_000
PROBABILITIES = [0.05, 0.4, 1.0, 0.7]


def scatter(rank=4, size=4, seed=0):
    root = np.random.default_rng(seed).normal(size=(size, rank))
    return root @ root.T


def laws():
    location = np.arange(4) / 4
    return {
        "one probability": BernoulliUniform(0.3, 4),
        "one each": BernoulliUniform(PROBABILITIES, 4),
        "dense": BernoulliUniform(1, 4),
        "one-hot": OneHot(4),
        "one-hot, weighted": OneHot(4, [0.1, 0.2, 0.3, 0.4]),
        "gaussian": Gaussian(location, scatter()),
        "gaussian, singular": Gaussian(location, scatter(rank=2)),
        "gaussian, constant": Gaussian(location, np.zeros((4, 4))),
    }


@pytest.mark.parametrize("name", laws())
def test_samples_have_the_moments(name):
    law = laws()[name]
    f = np.asarray(law.sample(jax.random.key(0), (DRAWS,)), float)
    products = f[:, :, None] * f[:, None, :]
    mu, C = np.asarray(law.mean()), np.asarray(law.second_moment())
    assert np.all(np.abs(f.mean(0) - mu) <= 5 * f.std(0) / DRAWS**0.5 + 1e-6)
    assert np.all(np.abs(products.mean(0) - C) <= 5 * products.std(0) / DRAWS**0.5 + 1e-5)


@pytest.mark.parametrize("name", laws())
def test_moments_belong_together(name, dtype, eps):
    law = laws()[name]
    mu, V, C, R = (np.asarray(x) for x in (law.mean(), law.covariance(), law.second_moment(), law.covariance_root()))
    assert {x.dtype for x in (mu, V, C, R)} == {dtype}
    assert pytest.approx(R @ R.T, abs=20 * eps) == V
    assert pytest.approx(V + np.outer(mu, mu), abs=20 * eps) == C
    assert np.asarray(law.second_moment_root() @ law.second_moment_root().T) == pytest.approx(C, abs=50 * eps)


def test_bernoulli_uniform_moments_are_exact(dtype, eps):
    p = np.array(PROBABILITIES)
    law = BernoulliUniform(p, 4)
    assert np.asarray(law.mean()) == pytest.approx(p / 2, rel=2 * eps)
    assert np.asarray(law.covariance()) == pytest.approx(np.diag(p / 3 - p**2 / 4), rel=8 * eps)
    assert np.asarray(jnp.diagonal(law.second_moment())) == pytest.approx(p / 3, rel=8 * eps)


def test_bernoulli_uniform_samples_are_present_with_their_probability():
    f = np.asarray(BernoulliUniform(PROBABILITIES, 4).sample(jax.random.key(1), (DRAWS,)))
    p = np.array(PROBABILITIES)
    assert np.all(np.abs((f > 0).mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-9)
    assert f.min() == 0
    assert f.max() < 1
    for column in f.T:
        present = column[column > 0]
        assert present.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * present.size))


def test_one_hot_covariance_is_singular(dtype, eps):
    p = np.array([0.1, 0.2, 0.3, 0.4])
    law = OneHot(4, p)
    assert np.asarray(law.covariance()) == pytest.approx(np.diag(p) - np.outer(p, p), abs=4 * eps)
    assert np.abs(np.asarray(law.covariance()).sum(0)).max() <= 8 * eps
    assert np.asarray(law.second_moment()) == pytest.approx(np.diag(p), abs=4 * eps)
    assert np.asarray(OneHot(4).mean()) == pytest.approx(np.full(4, 0.25), rel=eps)


def test_one_hot_samples_have_one_feature():
    f = np.asarray(OneHot(5).sample(jax.random.key(0), (100, 2)))
    assert f.shape == (100, 2, 5)
    assert np.all(f.sum(-1) == 1)
    assert set(np.unique(f)) == {0, 1}


def test_gaussian_returns_its_parameters():
    V = scatter()
    law = Gaussian(np.zeros(4), V)
    assert law.size == 4
    assert np.asarray(law.covariance()) == pytest.approx(V, rel=1e-5)
    assert np.asarray(law.second_moment()) == pytest.approx(V, rel=1e-5)


def test_the_root_of_a_singular_covariance_is_singular(dtype):
    root = np.asarray(Gaussian(np.zeros(4), scatter(rank=2)).covariance_root(), float)
    assert np.linalg.matrix_rank(root, tol=1e-5 * np.linalg.norm(root)) == 2


@hypothesis.given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 4))
def test_symmetric_root(seed, rank):
    V = scatter(rank, seed=seed)
    root = np.asarray(symmetric_root(jnp.asarray(V)), float)
    assert root == pytest.approx(root.T, abs=1e-6 * np.abs(V).max())
    assert root @ root == pytest.approx(V, abs=1e-5 * np.abs(V).max())


@pytest.mark.parametrize("V", [np.eye(3), np.diag([4.0, 4.0, 1.0]), scatter(3, 3)])
def test_derivative_of_the_root_is_that_of_its_equation(V):
    """`R R = V`, so `dR R + R dR = dV`, whether or not eigenvalues are equal."""
    with jax.enable_x64(True):
        dV = scatter(3, 3, seed=1)
        root, d_root = (np.asarray(x) for x in jax.jvp(symmetric_root, (jnp.asarray(V),), (jnp.asarray(dV),)))
    assert d_root @ root + root @ d_root == pytest.approx(dV, abs=1e-12)


def test_laws_are_pytrees():
    stacked = jax.tree.map(lambda *x: jnp.stack(x), BernoulliUniform(0.2, 3), BernoulliUniform(0.4, 3))
    means = jax.vmap(lambda law: law.mean())(stacked)
    assert np.asarray(means) == pytest.approx(np.array([[0.1] * 3, [0.2] * 3]))
    traced = jax.jit(lambda p: OneHot(2, p).covariance())(jnp.array([0.5, 0.5]))
    assert np.asarray(traced) == pytest.approx(np.array([[0.25, -0.25], [-0.25, 0.25]]), rel=1e-6)
    assert jax.jit(lambda law: law.size)(Gaussian([0.0, 1.0], np.eye(2))) == 2


def test_same_key_same_samples():
    for law in laws().values():
        a, b = (law.sample(jax.random.key(3), (4,)) for _ in range(2))
        assert np.array_equal(a, b)
        assert law.sample(jax.random.key(3)).shape == (4,)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BernoulliUniform(0.0, 3), r"probability must lie in \(0, 1\], got 0.0"),
        (lambda: BernoulliUniform([0.5, 1.5], 2), r"probability must lie in \(0, 1\], got \[0.5, 1.5\]"),
        (lambda: BernoulliUniform(np.nan, 3), "probability must be finite"),
        (
            lambda: BernoulliUniform([0.5, 0.5], 3),
            r"probability must be a number or have shape \(3,\), got shape \(2,\)",
        ),
        (lambda: BernoulliUniform(0.5, 0), "size must be a whole number of at least 1, got 0"),
        (lambda: OneHot(0), "size must be a whole number of at least 1, got 0"),
        (lambda: OneHot(2, [0.5, 0.6]), r"probability must lie in \(0, 1\] and sum to 1, got sum 1.1"),
        (lambda: OneHot(2, [1.0, 0.0]), r"probability must lie in \(0, 1\] and sum to 1, got sum 1.0"),
        (lambda: OneHot(2, [1.0]), r"probability must have shape \(2,\), got shape \(1,\)"),
        (lambda: Gaussian([0.0], np.eye(2)), r"scatter must have shape \(1, 1\), got \(2, 2\)"),
        (
            lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]),
            "scatter must be symmetric and positive semi-definite",
        ),
        (
            lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            "scatter must be symmetric and positive semi-definite",
        ),
    ],
)
def test_bad_laws(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_law_without_its_parts_says_so():
    class Nameless(Law):
        size = 1

    for part in ("mean", "covariance_root"):
        with pytest.raises(TypeError, match=rf"Nameless must define {part}\(\)"):
            getattr(Nameless(), part)()
    with pytest.raises(TypeError, match=r"Nameless must define sample\(\)"):
        Nameless().sample(jax.random.key(0))


def test_every_singular_covariance_is_accepted(dtype):
    """Of 2,000 products `B B^T` of low rank, whose smallest eigenvalues are rounding of either sign."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        size = rng.integers(2, 12)
        B = (rng.normal(size=(size, rng.integers(1, size + 1))) * 10 ** rng.uniform(-2, 2, size=(size, 1))).astype(
            dtype
        )
        Gaussian(jnp.zeros(size, dtype), jnp.asarray(B @ B.T))
    with pytest.raises(InputError, match="positive semi-definite"):
        Gaussian(jnp.zeros(2, dtype), jnp.asarray(np.array([[1, 1.001], [1.001, 1]]), dtype))


@pytest.mark.parametrize("small", [1e-7, 1e-12, 1e-30])
def test_a_small_variance_is_not_lost_beside_a_large_one(small, dtype, eps):
    law = Gaussian(jnp.zeros(3, dtype), jnp.asarray(np.diag([1.0, small, 0.0]), dtype))
    if small > 3 * eps**2:
        root = np.asarray(law.covariance_root(), float)
        kept = small > 2 * (3 * eps) ** 2
        assert np.diag(root @ root.T) == pytest.approx([1, small if kept else 0, 0], rel=1e-5, abs=0)


def test_the_root_of_one_hot_activations_has_their_rank():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    with jax.enable_x64(True):
        root = np.asarray(OneHot(4, p).covariance_root())
        assert np.asarray(OneHot(1).covariance_root()) == pytest.approx(np.zeros((1, 1)))
    assert root.shape == (4, 3)
    assert root @ root.T == pytest.approx(np.diag(p) - np.outer(p, p), abs=1e-16)
    assert np.linalg.matrix_rank(root) == 3


def test_rounding_of_a_root_is_that_of_its_smallest_eigenvalue(dtype, eps):
    """`sqrt(x + e) - sqrt x = e / (2 sqrt x)`: an eigenvalue of 1e-4 of a correlation matrix, off by eps or so."""
    V = np.array([[1, 1 - 1e-4], [1 - 1e-4, 1]])
    law = Gaussian(jnp.zeros(2, dtype), jnp.asarray(V, dtype))
    assert float(law.root_rounding()) == pytest.approx(2 * (2 - 1e-4) * eps / 8 / (2 * 1e-2), rel=1e-2)
    with jax.enable_x64(True):
        exact = np.asarray(Gaussian(jnp.zeros(2), jnp.asarray(V)).covariance_root())
    assert np.linalg.norm(np.asarray(law.covariance_root(), float) - exact, 2) < 4 * float(law.root_rounding())
