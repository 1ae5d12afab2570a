import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import BernoulliUniform, Gaussian, InputError, OneHot, Scenario, single_pair

X, Y = np.random.default_rng(0).normal(size=(4, 7)), np.random.default_rng(1).normal(size=(4, 6))
T = np.zeros((7, 6))
T[0, 1] = 3
LAWS = {"query_law": BernoulliUniform(0.2, 7), "key_law": OneHot(6)}


def test_what_is_given_is_kept(dtype):
    scenario = Scenario(X.astype(dtype), Y.astype(dtype), T.astype(dtype), weight_decay=0.5)
    for given, kept in ((X, scenario.query_features), (Y, scenario.key_features), (T, scenario.target)):
        assert kept.dtype == dtype
        assert np.array_equal(kept, given.astype(dtype))
    assert scenario.weight_decay.dtype == dtype


def test_weight_decay_follows_the_features():
    with jax.enable_x64(True):
        assert (
            Scenario(*(jnp.asarray(a, jnp.float32) for a in (X, Y, T)), weight_decay=0.1).weight_decay.dtype
            == "float32"
        )


def test_leaves_and_static_fields():
    scenario = Scenario(X, Y, T, **LAWS, objective="softmax", head_dim=2, n_keys=4, query_bias=True)
    assert len(jax.tree.leaves(scenario)) == 6  # features, target, both laws' probabilities, weight decay
    doubled = jax.tree.map(lambda x: 2 * x, scenario)
    assert (doubled.objective, doubled.head_dim, doubled.n_keys, doubled.query_bias) == ("softmax", 2, 4, True)
    assert doubled.query_law.size == 7


def test_dimensions():
    assert (Scenario(X, Y, T).dim, Scenario(X, Y, T).rank) == (4, 4)
    assert [Scenario(X, Y, T, head_dim=H).rank for H in (1, 4, 9)] == [1, 4, 4]
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), Scenario(X, Y, T))
    assert (stacked.dim, stacked.rank) == (4, 4)


def test_made_of_tracers():
    made = jax.jit(lambda X, decay: Scenario(X, Y, T, weight_decay=decay))(X, 0.1)
    assert np.array_equal(made.query_features, X.astype(np.float32))
    jax.jit(lambda p: Scenario(X, Y, T, BernoulliUniform(p, 7), OneHot(6), objective="softmax"))(0.2)
    jax.vmap(lambda t: Scenario(X, Y, single_pair(7, 6, 0, 1, t)))(jnp.ones(3))
    with pytest.raises(InputError, match=r"key_features must have 4 rows, as query_features do, got shape \(3, 6\)"):
        jax.jit(lambda X: Scenario(X, Y[:3], T))(X)


def with_zero_column(A, i):
    A = A.copy()
    A[:, i] = 0
    return A


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "sentence"),
    [
        ((X, Y[:3], T), {}, InputError, r"key_features must have 4 rows, as query_features do, got shape \(3, 6\)"),
        ((X, Y, T.T), {}, InputError, r"target must have shape .*, one row .*, got .*, which looks transposed"),
        ((X.T, Y, T), {}, InputError, r"query_features must have .* a row of target, got .*, which looks transposed"),
        ((X, Y.T, T), {}, InputError, r"key_features must have .* a column of target, got .*, which looks transposed"),
        ((X[0], Y, T), {}, InputError, r"query_features must have 2 axes, got shape \(7,\)"),
        ((X[:, :0], Y, T[:0]), {}, InputError, r"query_features must not be empty, got shape \(4, 0\)"),
        ((X, Y * np.inf, T), {}, InputError, "key_features must be finite, got 24 entries that are not"),
        ((X, Y, T * np.nan), {}, InputError, "target must be finite, got 42 entries that are not"),
        (("no", Y, T), {}, TypeError, "query_features must be an array of real numbers, got 'no'"),
        ((X, Y, T + 1j), {}, TypeError, "target must be an array of real numbers"),
        (
            (with_zero_column(X, 0), Y, T),
            {},
            InputError,
            "query_features must be non-zero where target matches them, got a zero column 0",
        ),
        (
            (X, with_zero_column(Y, 1), T),
            {},
            InputError,
            "key_features must be non-zero where target matches them, got a zero column 1",
        ),
        ((X, Y, T), {"objective": "cube"}, InputError, "objective must be one of 'square', 'softmax', got 'cube'"),
        (
            (X, Y, T),
            {"objective": "softmax"},
            InputError,
            "query_law must be a law for the softmax objective, got None",
        ),
        ((X, Y, T), {"query_law": 0.2}, TypeError, "query_law must be a Law, got 0.2"),
        ((X, Y, T), {"key_law": OneHot(7)}, InputError, "key_law must have size 6, one activation a feature, got 7"),
        (
            (X, Y, T),
            {"query_law": Gaussian([0.0], [[1.0]])},
            InputError,
            "query_law must have size 7, one activation a feature, got 1",
        ),
        ((X, Y, T), {"head_dim": 0}, InputError, "head_dim must be a whole number of at least 1, got 0"),
        ((X, Y, T), {"head_dim": 2.0}, InputError, "head_dim must be a whole number of at least 1, got 2.0"),
        ((X, Y, T), {"weight_decay": -0.1}, InputError, "weight_decay must be at least 0, got -0.1"),
        ((X, Y, T), {"weight_decay": np.nan}, InputError, "weight_decay must be finite"),
        ((X, Y, T), {"weight_decay": [0.1]}, InputError, r"weight_decay must have 0 axes, got shape \(1,\)"),
        ((X, Y, T), {"n_keys": 1}, InputError, "n_keys must be a whole number of at least 2, got 1"),
        ((X, Y, T), {"query_bias": 1}, TypeError, "query_bias must be True or False, got 1"),
    ],
)
def test_bad_input(arguments, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        Scenario(*arguments, **options)


def test_a_zero_feature_that_is_not_matched_is_allowed():
    assert Scenario(with_zero_column(X, 3), with_zero_column(Y, 0), T).dim == 4
