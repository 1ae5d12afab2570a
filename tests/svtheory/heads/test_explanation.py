"""T16: hypotheses against the filter's own formula, against heads made by it, and against a public induction head."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, ortho_group

from svtheory import InputError, compare, explain, load_heads
from svtheory.heads.bundles import MODELS
from svtheory.heads.permuted import derangements

D, N, M, SAMPLES, DRAWS = 5, 6, 4, 40, 400  # of most tests: one compiled program serves all of one shape


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def setting(seed, dtype=np.float64):
    """Anisotropic inputs with means that carry one-hot features, and a template."""
    rng = np.random.default_rng(seed)

    def side(features):
        f = np.eye(features)[rng.integers(0, features, SAMPLES)]
        mixing = rng.normal(size=(features, D)) * np.geomspace(1, 0.1, D)
        return f @ mixing + 0.1 * rng.normal(size=(SAMPLES, D)) + 1, f

    data = [*side(N), *side(M), rng.normal(size=(N, M))]
    return [jnp.asarray(a, dtype) for a in data]


def naive_prediction(query_inputs, query_features, key_inputs, key_features, T, centre_query, tau):
    """Omega_P and the two moments, straight from the definition; inputs of full rank."""
    sides = []
    for x, f, centre in ((query_inputs, query_features, centre_query), (key_inputs, key_features, True)):
        x = x - x.mean(axis=0) if centre else x
        A = x.T @ x / len(x)
        values, U = np.linalg.eigh(A)
        sides.append((A, values * len(A) / np.trace(A), U, x.T @ f / len(x)))
    (A, lam, U, G_r), (B, mu, V, G_s) = sides
    product = np.outer(lam, mu)
    core = (U.T @ G_r @ T @ G_s.T @ V) * -np.expm1(-product * tau) / product
    return U @ core @ V.T, A, B


def root(A):
    values, Q = np.linalg.eigh(A)
    return Q * np.sqrt(values) @ Q.T


def cosine(O, P):
    return (O * P).sum() / np.linalg.norm(O) / np.linalg.norm(P)


def naive_functional_cosine(omega, predicted, A, B):
    return cosine(root(A) @ omega @ root(B), root(A) @ predicted @ root(B))


def factors(omega):
    """W_Q, W_K with `W_Q^T W_K = omega`."""
    U, values, Vt = np.linalg.svd(omega)
    return np.sqrt(values)[:, None] * U.T, np.sqrt(values)[:, None] * Vt


@pytest.mark.parametrize("centre_query", [True, False])
def test_both_cosines_and_the_best_time_by_the_definition(centre_query):
    data = setting(0)
    rng = np.random.default_rng(1)
    plain = [np.asarray(a) for a in data]
    omega = rng.normal(size=(D, D)) / 20 + naive_prediction(*plain, centre_query, 2.0)[0]
    found = explain(*factors(omega), *data, jax.random.key(0), centre_query, DRAWS)

    def at(tau):
        return naive_functional_cosine(omega, *naive_prediction(*plain, centre_query, tau))

    predicted = naive_prediction(*plain, centre_query, float(found.time))[0]
    np.testing.assert_allclose(found.functional_cosine, at(float(found.time)), rtol=1e-9)
    np.testing.assert_allclose(found.cosine, cosine(omega, predicted), rtol=1e-9)
    assert max(map(at, np.geomspace(1e-4, 1e8, 200))) < found.functional_cosine + 1e-6
    values = np.linalg.svd(predicted, compute_uv=False)
    np.testing.assert_allclose(found.predicted.values / found.predicted.values[0], values / values[0], atol=1e-9)
    np.testing.assert_allclose(found.measured.values, np.linalg.svd(omega, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("tau", [1e-6, 0.3, 20.0, 1e9])
def test_a_head_that_training_made_is_explained_whole(tau):
    """From the small-time limit, features, to the whitened duals; its time is found where the filter bends."""
    data = setting(1)
    omega, _, _ = naive_prediction(*(np.asarray(a) for a in data), True, tau)
    found = explain(*factors(omega), *data, jax.random.key(0), draws=DRAWS)
    agreement = compare(found.predicted, found.measured)
    # at the grid's ends the filter is linear to 1 % or flat to 1e-43
    tolerance = 1e-4 if tau == 1e-6 else 1e-6
    assert found.functional_cosine > 1 - tolerance
    assert found.cosine > 1 - tolerance
    if 1e-3 < tau < 1e3:
        np.testing.assert_allclose(found.time, tau, rtol=0.02)
    np.testing.assert_allclose(agreement.left[:3], 1, atol=100 * tolerance)
    np.testing.assert_allclose(agreement.value_error[:3], 0, atol=1e-3)
    assert found.p_value <= 0.05
    assert found.margin() > 0
    np.testing.assert_allclose(found.overlap(D), 1, rtol=1e-9)
    np.testing.assert_allclose(found.overlap(1), 1, atol=100 * tolerance)


def test_rivals_are_the_template_with_its_columns_deranged():
    """With four key features there are nine derangements; each rival cosine is one of the nine by definition."""
    rng = np.random.default_rng(3)
    data = setting(3)
    W_Q, W_K = rng.normal(size=(2, D, D))
    found = explain(W_Q, W_K, *data, jax.random.key(0), draws=DRAWS)
    rivals = [
        explain(W_Q, W_K, *data[:4], np.asarray(data[4])[:, order], jax.random.key(0), draws=DRAWS)
        for order in permutations(range(M))
        if all(a != b for a, b in enumerate(order))
    ]
    expected = sorted(float(rival.functional_cosine) for rival in rivals)
    np.testing.assert_allclose(np.sort(found.rivals)[:9], expected, atol=1e-3)  # a parabola between times
    assert np.isnan(np.sort(found.rivals)[9:]).all()
    np.testing.assert_allclose(found.margin(), found.functional_cosine - expected[-1], atol=1e-3)
    np.testing.assert_allclose(found.margin(found), min(0, found.functional_cosine - expected[-1]), atol=1e-3)
    assert found.rank == 1 + sum(x > found.functional_cosine for x in expected)


@pytest.mark.parametrize(
    ("template", "others"),
    [
        (np.repeat(np.eye(N, 2), 2, axis=1), 5),  # six arrangements of two columns twice
        (np.eye(N, M), 9),  # derangements of four
        (np.outer(np.eye(N)[0], np.eye(M)[2]), 3),  # one pair in four
        (np.outer([1, -1, 0, 0, 0, 0], np.ones(M)), 0),  # nothing asked of keys
        (np.ones((N, 1)), 0),
    ],
)
def test_rivals_are_counted_once_each_and_without_the_hypothesis(template, others):
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(2, SAMPLES, D))
    f, g = (rng.normal(size=(SAMPLES, n)) for n in template.shape)
    found = explain(*rng.normal(size=(2, D, D)), x, f, y, g, template, jax.random.key(0), draws=DRAWS)
    rivals = np.asarray(found.rivals)
    assert (~np.isnan(rivals)).sum() == others
    assert len(np.unique(np.round(rivals[~np.isnan(rivals)], 9))) == others
    assert np.isnan(found.margin()) == (others == 0)
    assert 1 <= found.rank <= 1 + others
    np.testing.assert_allclose(
        found.margin(found) if others == 0 else 0, 0, atol=1e-12
    )  # another hypothesis still competes


def haar(rng, dim, pairs):
    return ortho_group.rvs(dim, random_state=rng)[:, :pairs]


def test_chance_is_random_heads_by_the_definition():
    """The head's own spectrum between random rotations, whitened and raw, each at its best time; keys in a subspace."""
    rng = np.random.default_rng(12)
    x, f, y, g, T = (np.asarray(a) for a in setting(12))
    y = np.pad(y[:, : D - 1], ((0, 0), (0, 2)))
    W_Q, W_K = rng.normal(size=(2, 3, D)), rng.normal(size=(3, D + 1))
    W_Q = W_Q[0] * np.geomspace(3, 0.1, D)
    found = explain(W_Q, W_K, x, f, y, g, T, jax.random.key(1), draws=DRAWS)
    A, B = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    (lam, U), (mu, V) = np.linalg.eigh(A), np.linalg.eigh(B)
    mu, V = mu[2:], V[:, 2:]  # the range
    M = U.T @ ((x - x.mean(0)).T @ (f - f.mean(0))) @ T @ ((y - y.mean(0)).T @ (g - g.mean(0))).T @ V
    times = np.geomspace(1e-4, 1e8, 400) / (lam.mean() * np.linalg.eigvalsh(B).mean())
    filters = -np.expm1(-np.outer(lam, mu)[None] * times[:, None, None]) / np.sqrt(np.outer(lam, mu))[None]
    F = (M[None] * filters).reshape(len(times), -1)
    F /= np.linalg.norm(F, axis=1, keepdims=True)

    def best(O):
        return (F @ O.ravel() / np.linalg.norm(O)).max()

    omega = W_Q.T @ W_K
    seen = np.linalg.svd(root(A) @ omega @ root(B), compute_uv=False)[:3]
    raw = np.linalg.svd(omega, compute_uv=False)[:3]
    whitened = [best(haar(rng, D, 3) * seen @ haar(rng, D - 1, 3).T) for _ in range(1000)]
    turned = [
        best(np.sqrt(lam)[:, None] * (U.T @ haar(rng, D, 3) * raw @ haar(rng, D + 1, 3).T @ V) * np.sqrt(mu))
        for _ in range(1000)
    ]
    for null, expected in zip(found.null, (whitened, turned), strict=True):
        assert ks_2samp(np.asarray(null), expected).pvalue > 1e-3
    assert ks_2samp(whitened, turned).pvalue < 1e-3  # the two differ here
    reached = [(1 + (null >= found.functional_cosine).sum()) / (1 + DRAWS) for null in found.null]
    np.testing.assert_allclose(found.p_value, max(reached), atol=2 / (1 + DRAWS))


@pytest.fixture(scope="module")
def p_values():
    """Of random heads on the same samples, one compiled program for every template."""

    def p_value(key, queries, f, keys, g, template):
        head, key = jax.random.split(key)
        W_Q, W_K = jax.random.normal(head, (2, 4, 8))
        return explain(W_Q, W_K, queries, f, keys, g, template, key, draws=99).p_value

    return jax.jit(jax.vmap(p_value, in_axes=(0, *[None] * 5)))


@pytest.mark.parametrize(
    "template", [np.eye(6), np.outer(np.eye(6)[1], np.eye(6)[4]), np.kron(np.eye(2), np.ones((3, 3)))]
)
def test_a_random_head_is_explained_by_chance_alone_as_often_as_claimed(template, p_values):
    """One set of six features of unequal frequencies for queries and keys, where permuted templates were no null."""
    rng = np.random.default_rng(13)
    X, often = rng.normal(size=(8, 6)), 1 / np.arange(1, 7)
    f, g = (np.eye(6)[rng.choice(6, 100, p=often / often.sum())] for _ in range(2))
    repetitions = 400
    keys = jax.random.split(jax.random.key(0), repetitions)
    p = np.asarray(p_values(keys, f @ X.T, f, g @ X.T, g, template))
    for level in (0.05, 0.2):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / repetitions)
    assert (p <= 0.5).mean() > 0.3  # nor is it never small


def test_where_chance_leaves_two_heads_no_p_value_is_small():
    """Two one-hot features a side, nothing else: a whitened head is one number, right half of the time."""
    rng = np.random.default_rng(14)
    x, y = (np.eye(2, D)[rng.integers(0, 2, SAMPLES)] for _ in range(2))
    features = x @ np.eye(D, N), y @ np.eye(D, M)
    W_Q, W_K = rng.normal(size=(2, D, D))
    found = explain(W_Q, W_K, x, features[0], y, features[1], np.eye(N, M), jax.random.key(0), draws=DRAWS)
    np.testing.assert_allclose(np.abs(found.functional_cosine), 1, rtol=1e-12)
    assert found.p_value > 0.4


def test_derangements_are_uniform_and_fix_nothing():
    draw = jax.jit(derangements, static_argnums=(1, 2, 3))
    drawn = np.asarray(draw(jax.random.key(0), 4000, 4, 6))
    draws = drawn[:, :4]
    assert (drawn[:, 4:] == [4, 5]).all()
    assert (np.sort(draws, axis=1) == np.arange(4)).all()
    assert (draws != np.arange(4)).all()
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == 9
    assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 30  # chi-squared, 8 degrees of freedom
    assert (np.asarray(draw(jax.random.key(0), 3, 1, 2)) == [0, 1]).all()


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=6)
def test_what_the_cosines_do_not_depend_on(seed):
    """Scale of weights, inputs, features and template; the factorisation; rotations; a shift of centred inputs."""
    rng = np.random.default_rng(seed)
    x, f, y, g, T = setting(seed)
    W_Q, W_K = rng.normal(size=(2, D, D))
    G = rng.normal(size=(D, D)) + 5 * np.eye(D)
    Q, R = (np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in range(2))
    found = explain(W_Q, W_K, x, f, y, g, T, jax.random.key(0), draws=DRAWS)
    for same in (
        (2 * W_Q, 3 * W_K, 5 * x, f / 3, y / 7, 4 * g, 9 * T),
        (G @ W_Q, np.linalg.inv(G).T @ W_K, x, f, y, g, T),
        (W_Q @ Q.T, W_K @ R.T, x @ Q.T, f, y @ R.T, g, T),
        (W_Q, W_K, x + 3, f, y - 2, g + 1, T),
    ):
        other = explain(*same, jax.random.key(0), draws=DRAWS)
        np.testing.assert_allclose(other.functional_cosine, found.functional_cosine, atol=1e-7)
        np.testing.assert_allclose(other.cosine, found.cosine, atol=1e-5)
        np.testing.assert_allclose(other.rivals, found.rivals, atol=1e-6)
    opposite = explain(-W_Q, W_K, x, f, y, g, -T, jax.random.key(0), draws=DRAWS)
    np.testing.assert_allclose(opposite.functional_cosine, found.functional_cosine, atol=1e-9)


def test_weights_that_the_data_never_exercises():
    """Inputs in a subspace: the rest of the weights changes only the weight cosine and its share."""
    x, f, y, g, T = (np.array(a) for a in setting(4))
    x[:, D - 2 :] = y[:, D - 1 :] = 0
    inside = np.random.default_rng(4).normal(size=(D, D))
    inside[D - 2 :] = inside[:, D - 1 :] = 0
    outside = np.zeros((D, D))
    outside[D - 2 :, D - 1 :] = 3
    omega = inside + outside
    W_K = np.eye(D)
    found, plain = (explain(W.T, W_K, x, f, y, g, T, jax.random.key(0), draws=DRAWS) for W in (omega, inside))
    np.testing.assert_allclose(found.unvisited, (outside**2).sum() / (omega**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(plain.unvisited, 0, atol=1e-12)
    np.testing.assert_allclose(found.functional_cosine, plain.functional_cosine, rtol=1e-9)
    np.testing.assert_allclose(found.cosine, plain.cosine * np.sqrt((inside**2).sum() / (omega**2).sum()), rtol=1e-9)


def test_both_precisions_tiny_weights_and_zero_heads(dtype):
    data = setting(5, dtype)
    W_Q, W_K = (jnp.asarray(W, dtype) for W in np.random.default_rng(5).normal(size=(2, D, D)))
    found = explain(W_Q, W_K, *data, jax.random.key(0), draws=DRAWS)
    assert {leaf.dtype for leaf in jax.tree.leaves(found) if leaf.dtype != bool} == {dtype}
    with jax.enable_x64(True):
        wide = explain(*(np.asarray(a, float) for a in (W_Q, W_K, *data)), jax.random.key(0), draws=DRAWS)
    np.testing.assert_allclose(found.functional_cosine, wide.functional_cosine, atol=1e-4)
    np.testing.assert_allclose(found.rivals, wide.rivals, atol=1e-4)
    tiny = explain(W_Q * 1e-17, W_K * 1e-17, *data, jax.random.key(0), draws=DRAWS)
    np.testing.assert_allclose(tiny.functional_cosine, found.functional_cosine, rtol=1e-5)
    np.testing.assert_allclose(tiny.null, found.null, atol=1e-5)
    np.testing.assert_allclose(tiny.predicted.values, found.predicted.values * 1e-34, rtol=1e-4, atol=1e-38)
    zero = explain(0 * W_Q, W_K, *data, jax.random.key(0), draws=DRAWS)
    assert zero.functional_cosine == zero.cosine == 0
    np.testing.assert_allclose(zero.p_value, 1, rtol=1e-6)


def test_jit_vmap_grad_and_one_trace():
    data = setting(6)
    W_Q, W_K = np.random.default_rng(6).normal(size=(2, 4, D, D))
    key = jax.random.key(0)
    explained = jax.jit(jax.vmap(lambda W_Q, W_K: explain(W_Q, W_K, *data, key, draws=DRAWS)))(W_Q, W_K)
    assert explained.null.shape == (4, 2, DRAWS)
    assert explained.margin().shape == explained.rank.shape == explained.overlap(2)[0].shape == (4,)
    first = explain(W_Q[1], W_K[1], *data, key, draws=DRAWS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-6),
        (explained.functional_cosine, explained.null, explained.rivals, explained.predicted.values),
        (first.functional_cosine, first.null, first.rivals, first.predicted.values),
    )
    with jax.no_tracing():
        explain(W_Q[2], W_K[2], *data, key, draws=DRAWS)

    def functional_cosine(scale, W_Q):
        return explain(W_Q, W_K[0], scale * data[0] ** 3, *data[1:], key, draws=DRAWS).functional_cosine

    step = np.random.default_rng(7).normal(size=W_Q[0].shape)
    slope = (jax.grad(functional_cosine, argnums=1)(1.0, W_Q[0]) * step).sum()
    ahead, behind = (functional_cosine(1.0, W_Q[0] + h * step) for h in (1e-4, -1e-4))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_K": np.ones((2, D))}, "W_K must have 3 rows"),
        ({"query_inputs": np.ones((SAMPLES, D + 1))}, "query_inputs must have 5 columns, .*got shape \\(40, 6\\)$"),
        ({"query_inputs": np.ones((D, SAMPLES))}, "which looks transposed: samples are rows"),
        ({"W_Q": np.ones((D, 3)), "W_K": np.ones((D, 3))}, "weights are \\(H, D\\), these look transposed"),
        ({"query_features": np.ones((N, SAMPLES))}, "features look transposed, samples are rows"),
        ({"key_features": np.ones((SAMPLES - 1, M))}, "key_inputs and key_features must have one row a sample"),
        (
            {"template": np.ones((M, N))},
            r"template must have shape \(6, 4\), query by key features, got \(4, 6\), which looks t",
        ),
        ({"draws": 0}, "draws must be a whole number of at least 1"),
        ({"key_inputs": np.full((SAMPLES, D), np.nan)}, "key_inputs must be finite"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("query_inputs", "query_features", "key_inputs", "key_features", "template")
    arguments = dict(zip(names, setting(0, np.float32), strict=True))
    arguments |= {"W_Q": np.ones((3, D)), "W_K": np.ones((3, D)), "key": jax.random.key(0)} | change
    with pytest.raises(InputError, match=message):
        explain(**arguments)


def test_overlap_out_of_range_is_named():
    found = explain(*np.ones((2, D, D)), *setting(0), jax.random.key(0), draws=DRAWS)
    with pytest.raises(InputError, match="k must be at most 5"):
        found.overlap(6)


def residual_stream(bundle, tokens):
    """What layer 1 of the attention-only model reads: embeddings, positions and the output of layer 0's head."""
    weights = bundle.others
    x = weights["W_E"][tokens] + weights["W_pos"][None]
    q, k = (x @ W[0, 0].T + b[0, 0] for W, b in ((bundle.W_Q, bundle.b_Q), (bundle.W_K, bundle.b_K)))
    scores = np.where(np.tril(np.ones((8, 8), bool)), q @ k.swapaxes(1, 2) / bundle.score_divisor, -np.inf)
    pattern = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern /= pattern.sum(axis=-1, keepdims=True)
    return x + pattern @ (x @ weights["W_V"][0, 0] + weights["b_V"][0, 0]) @ weights["W_O"][0, 0] + weights["b_O"][0]


def induction_sequences(rng, n):
    """Eight random tokens, of which the last repeats one of the first six."""
    tokens = rng.integers(0, 26, (n, 8))
    tokens[:, 7] = tokens[np.arange(n), rng.integers(0, 6, n)]
    return tokens


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no trained heads of others at {MODELS}: set SVTHEORY_REAL_MODELS")
def test_a_public_induction_head_is_explained_by_previous_token_is_current_token():
    bundle = load_heads(MODELS / "induction_ft000.safetensors")
    tokens = induction_sequences(np.random.default_rng(0), 2000)
    x, one_hot = residual_stream(bundle, tokens), np.eye(26, dtype=np.float32)
    keys = x[:, 1:7].reshape(-1, 64)

    def explained_by(key_tokens):
        features = one_hot[key_tokens.ravel()]
        head = bundle.W_Q[1, 0], bundle.W_K[1, 0]
        return explain(*head, x[:, 7], one_hot[tokens[:, 7]], keys, features, one_hot, jax.random.key(0))

    previous, own = explained_by(tokens[:, 0:6]), explained_by(tokens[:, 1:7])
    assert previous.functional_cosine >= 0.98
    assert previous.p_value == pytest.approx(1 / 1000)
    assert previous.rank == 1
    assert previous.margin(own) >= 0.2
    assert own.functional_cosine < 0.5
    assert min(previous.overlap(4)) > 0.95
    np.testing.assert_allclose(previous.cosine, 0.947, atol=0.01)
    np.testing.assert_allclose(previous.unvisited, 0.011, atol=0.004)
    assert abs(np.nanmean(previous.rivals)) < 0.05


@pytest.mark.parametrize(("inputs", "features"), [(1e25, 1), (1e-25, 1), (1, 1e25), (1, 1e-25)])
def test_the_sizes_of_inputs_and_features_do_not_matter(inputs, features):
    """Their squares overflow or vanish in float32."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, D, D))
    x, y = rng.normal(size=(2, SAMPLES, D))
    f, g = (rng.normal(size=(SAMPLES, n)) for n in (N, M))
    plain, sized = (
        explain(*W, a * x, b * f, a * y, b * g, np.eye(N, M), jax.random.key(0), draws=DRAWS)
        for a, b in ((1, 1), (inputs, features))
    )
    for name in ("functional_cosine", "cosine", "time", "p_value"):
        np.testing.assert_allclose(getattr(sized, name), getattr(plain, name), rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(sized.predicted.values, plain.predicted.values, rtol=1e-3, atol=1e-5)


def test_weights_too_large_and_flags_that_are_none_are_refused():
    rng = np.random.default_rng(0)
    W, x, f, g = (rng.normal(size=size) for size in ((D, D), (SAMPLES, D), (SAMPLES, N), (SAMPLES, M)))
    given = x, f, x, g, np.eye(N, M), jax.random.key(0)
    with pytest.raises(InputError, match="W_Q and W_K must be of a size"):
        explain(1e200 * W, 1e200 * W, *given, draws=DRAWS)
    with pytest.raises(InputError, match="centre_query must be True or False, got 'False'"):
        explain(W, W, *given, centre_query="False", draws=DRAWS)


@pytest.fixture(scope="module")
def families():
    """A family of four, and its members alone, of one head that the second has made with noise."""
    with jax.enable_x64(True):
        data, rng = setting(15), np.random.default_rng(15)
        T = rng.normal(size=(4, N, M))
        plain = [np.asarray(a) for a in data[:4]]
        omega = naive_prediction(*plain, T[1], True, 2.0)[0]
        omega = omega + rng.normal(size=omega.shape) * np.linalg.norm(omega) / 15
        key, W = jax.random.key(2), factors(omega)
        family = explain(*W, *data[:4], 5.0 * T, key, draws=DRAWS, resamples=DRAWS)
        return family, [explain(*W, *data[:4], t, key, draws=DRAWS) for t in T], (plain, T, omega)


def test_a_family_is_its_best_member_and_so_are_those_it_is_held_against(families):
    family, alone, _ = families
    np.testing.assert_allclose(family.members, [e.functional_cosine for e in alone], rtol=1e-12)
    assert family.member == 1
    for name in ("functional_cosine", "cosine", "time"):
        np.testing.assert_allclose(getattr(family, name), getattr(alone[1], name), rtol=1e-10)
    np.testing.assert_allclose(family.predicted.values, alone[1].predicted.values, rtol=1e-9)
    # the same random heads and permutations for each: the family's own is the highest of its members'
    np.testing.assert_allclose(family.null, np.max([e.null for e in alone], axis=0), atol=1e-12)
    np.testing.assert_allclose(family.rivals, np.max([e.rivals for e in alone], axis=0), atol=1e-12)
    assert family.p_value >= alone[1].p_value


def test_samples_are_drawn_again_by_the_definition(families):
    family, _, (plain, T, omega) = families
    rng, times = np.random.default_rng(0), np.geomspace(1e-3, 1e3, 40)

    def again():
        q, k = rng.integers(0, SAMPLES, (2, SAMPLES))
        x, f, y, g = plain[0][q], plain[1][q], plain[2][k], plain[3][k]
        A, B = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
        heads = [naive_prediction(x, f, y, g, T[1], True, tau)[0] for tau in times]
        return max(naive_functional_cosine(omega, head, A, B) for head in heads)

    assert family.resampled.shape == (DRAWS, 4)
    assert ks_2samp(np.asarray(family.resampled[:, 1]), [again() for _ in range(200)]).pvalue > 1e-3
    low, high = family.interval()
    assert low < family.functional_cosine + 0.02 < high + 0.04
    np.testing.assert_allclose(family.interval(0.5), np.quantile(family.resampled.max(axis=1), [0.25, 0.75]))
    np.testing.assert_allclose(family.support.sum(), 1, rtol=1e-12)
    assert family.support.argmax() == 1


def test_templates_that_a_family_holds_are_no_rivals():
    """Permutations turn one pair of the four that a query feature can be in into another, and one more into new."""
    rng, data = np.random.default_rng(16), setting(3)
    W, pairs = rng.normal(size=(2, D, D)), [np.outer(np.eye(N)[0], key) for key in np.eye(M)]
    closed, open_ = (
        explain(*W, *data[:4], np.stack(T), jax.random.key(0), draws=DRAWS, resamples=DRAWS)
        for T in (pairs, [*pairs[:3], np.outer(np.arange(N), [1, 2, 4, 8])])
    )
    assert np.isnan(closed.rivals).all()
    assert np.isnan(closed.margin())
    assert (~np.isnan(open_.rivals)).sum() == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": np.ones((0, N, M))}, "template must not be empty"),
        (
            {"template": np.ones((2, M, N))},
            r"template must have shape \(6, 4\) of each .* looks transposed",
        ),
        ({"resamples": -1}, "resamples must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_families_are_named(change, message):
    names = ("query_inputs", "query_features", "key_inputs", "key_features", "template")
    arguments = dict(zip(names, setting(0), strict=True)) | {"W_Q": np.ones((3, D)), "W_K": np.ones((3, D))}
    with pytest.raises(InputError, match=message):
        explain(**(arguments | {"key": jax.random.key(0)} | change))


def test_intervals_need_resamples(families):
    family, alone, _ = families
    with pytest.raises(InputError, match="resamples must be at least 1 for an interval, got 0"):
        alone[0].interval()
    with pytest.raises(InputError, match="level must lie between 0 and 1, got 2"):
        family.interval(2)
