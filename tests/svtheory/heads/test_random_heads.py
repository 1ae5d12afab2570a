"""The sparseness test: its random heads by hand, its level under random heads, its power, and what must not matter."""

from functools import partial

import jax
import numpy as np
import pytest

from svtheory import Head, InputError, decompose, relative_attention, rotation_null, sparseness_test, treves_rolls
from svtheory.heads.full_rank import full_rank_sparseness
from svtheory.heads.random_heads import compare_with_random_heads
from svtheory.heads.read_together import read_together
from tests.factorisation_shapes import factorisation_shapes

D, H, B, T = 10, 4, 6, 8
DRAWS = 400  # of most tests: one compiled program serves all of one shape
FREQUENCIES = np.array([1.0])
RAW = ((np.eye(D), np.eye(D)), (np.eye(D), np.eye(D)))  # roots of moments that read a head raw


def haar(rng, n, k=None):
    Q, R = np.linalg.qr(rng.normal(size=(n, k or n)))
    return Q * np.sign(np.diag(R))


def some_tokens(rng, shape=(B, T)):
    """Correlated, with a mean."""
    return (rng.normal(size=(*shape, D)) * np.geomspace(1, 0.2, D) + 0.4) @ haar(rng, D)


def some_head(rng, bias=False, rotary=False):
    b_Q, b_K = rng.normal(size=(2, H)) if bias else (None, None)
    return Head(*rng.normal(size=(2, H, D)), b_Q, b_K, FREQUENCIES if rotary else None)


def turned(x, at):
    """Half-split rotation of the first two of four rows."""
    cos, sin = np.cos(at * FREQUENCIES[0]), np.sin(at * FREQUENCIES[0])
    a, b = x[..., 0] * cos - x[..., 1] * sin, x[..., 0] * sin + x[..., 1] * cos
    return np.concatenate([np.stack([a, b], -1), x[..., 2:]], axis=-1)


def naive_sparseness(W_Q, W_K, b_Q, b_K, rotary, tokens, given=None, seen=RAW):
    """Mean S of a head in float64 with matrices of D x D, the key chosen by itself or given.

    `seen` holds the roots of both moments, with their inverses, in which it is read.
    """
    (A, A_inverse), (B_root, B_inverse) = seen
    U, sigma, Vt = np.linalg.svd(A @ W_Q.T @ W_K @ B_root)
    U, sigma, Vt = A_inverse @ U[:, :H], sigma[:H], Vt[:H] @ B_inverse
    to_r, to_s = np.linalg.pinv(W_Q).T, np.linalg.pinv(W_K).T
    found = []
    for sequence in tokens:
        q, k = sequence @ W_Q.T + b_Q, sequence @ W_K.T + b_K
        if rotary:
            q, k = (turned(x, np.arange(len(x))) for x in (q, k))
        r = sequence + (q - sequence @ W_Q.T) @ to_r
        s = sequence + (k - sequence @ W_K.T) @ to_s
        for i in range(1, len(sequence)):
            terms = sigma * (r[i] @ U) * (s[: i + 1] @ Vt.T)
            j = terms.sum(axis=1).argmax() if given is None else given[i]
            c = np.abs(terms[j] - np.delete(terms, j, axis=0).mean(axis=0))
            found.append(c.mean() ** 2 / (c**2).mean())
    return np.mean(found)


def roots(x, centre):
    """`A^{1/2}`, `A^{+1/2}` and the mean that is taken off."""
    mean = x.mean(axis=0) * centre
    values, E = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    return E * np.sqrt(values) @ E.T, E / np.sqrt(values) @ E.T, mean


@pytest.mark.parametrize(
    ("bias", "rotary", "given"),
    [
        *((bias, rotary, None) for bias in (False, True) for rotary in (False, True)),
        *((both, both, np.arange(T) // 2) for both in (False, True)),
        *(pytest.param(bias, not bias, np.arange(T) // 2, marks=pytest.mark.slow) for bias in (False, True)),
    ],
)
def test_random_heads_are_those_of_the_definition(bias, rotary, given):
    """Means over rotations of D x D matrices in numpy, and over draws, agree within their standard errors."""
    rng = np.random.default_rng(0)
    head, tokens = some_head(rng, bias, rotary), some_tokens(rng)
    W_Q, W_K = (np.asarray(W, float) for W in (head.W_Q, head.W_K))
    b_Q, b_K = (np.asarray(b, float) if bias else np.zeros(H) for b in (head.b_Q, head.b_K))
    x = tokens.reshape(-1, D)
    A, A_inverse, query_mean = roots(x, centre=bias)
    B_root, B_inverse, key_mean = roots(x, centre=bias or not rotary)

    def balanced():
        Q = W_Q @ A @ haar(rng, D) @ A_inverse
        K = W_K @ B_root @ haar(rng, D) @ B_inverse
        # centred: the mean query and key are kept
        return Q, K, b_Q + (W_Q - Q) @ query_mean, b_K + (W_K - K) @ key_mean

    def raw():
        return W_Q @ haar(rng, D), W_K @ haar(rng, D), b_Q, b_K

    choose = "attended" if given is None else np.broadcast_to(given, (B, T))
    readings = 2 if given is None else 1
    together = read_together(jax.tree.map(lambda x: x[None], head), tokens, tokens, choose, readings=readings)
    found = compare_with_random_heads(together, jax.random.key(1), DRAWS)
    seen = [RAW, ((A, A_inverse), (B_root, B_inverse))][:readings]
    for i, of_reading in enumerate(seen):
        own = naive_sparseness(W_Q, W_K, b_Q, b_K, rotary, tokens, given, of_reading)
        assert found.head_sparseness[i, 0] == pytest.approx(own, rel=1e-4)
        for null, draw in zip(np.asarray(found.head_null)[i, 0], (raw, balanced), strict=True):
            expected = [naive_sparseness(*draw(), rotary, tokens, given, of_reading) for _ in range(60)]
            error = np.sqrt(np.var(expected) / 60 + np.var(null) / DRAWS)
            assert abs(null.mean() - np.mean(expected)) < 4 * error
            assert np.std(null) == pytest.approx(np.std(expected), rel=4 / np.sqrt(2 * 60))


def test_gaussian_heads_are_those_of_the_definition():
    """Of a head with biases and rotary maps, which keep their size beside the factors'."""
    rng = np.random.default_rng(0)
    head, tokens = some_head(rng, bias=True, rotary=True), some_tokens(rng)
    together = read_together(jax.tree.map(lambda x: x[None], head), tokens, tokens, readings=2)
    null = np.asarray(full_rank_sparseness(together, jax.random.key(1), DRAWS))[0]
    b_Q, b_K = (np.asarray(b, float) for b in (head.b_Q, head.b_K))
    sizes = [np.linalg.norm(W) for W in (head.W_Q, head.W_K)]

    def draw():
        W = rng.normal(size=(2, H, D))
        W_Q, W_K = (x * size / np.linalg.norm(x) for x, size in zip(W, sizes, strict=True))
        return naive_sparseness(W_Q, W_K, b_Q, b_K, True, tokens)

    expected = [draw() for _ in range(60)]
    assert abs(null.mean() - np.mean(expected)) < 4 * np.sqrt(np.var(expected) / 60 + np.var(null) / DRAWS)
    assert np.std(null) == pytest.approx(np.std(expected), rel=4 / np.sqrt(2 * 60))


@partial(jax.jit, static_argnums=(2, 3))
def compare_each(given, index, rotary, draws):
    """Of many heads (reps, H, D), each on its own tokens (reps, B, T, D), biases and key: of one decision too."""

    def of_head(given):
        key, x, W_Q, W_K, *b = given
        # unflattening, as within vmap: tracers are not checked
        head = jax.tree.map(lambda x: x, Head(W_Q, W_K, *b, frequencies=FREQUENCIES if rotary else None))
        test = sparseness_test(head, x, x, key, draws, "attended" if index is None else index)
        return test.head_p_value, test.p_value[0, -1], test.head_null[0], test.head_sparseness

    return jax.lax.map(of_head, given)


def comparisons(tokens, W_Q, W_K, b=None, rotary=False, choose="attended", draws=19, seed=0):
    """Heads' p-values, those of one decision each, the raw nulls and what they are compared with."""
    given = [np.asarray(x, np.float32) for x in (tokens, W_Q, W_K, *(() if b is None else b))]
    index = None if isinstance(choose, str) else np.broadcast_to(choose, tokens.shape[1:3])
    keys = jax.random.split(jax.random.key(seed), len(tokens))
    return [np.asarray(x) for x in compare_each((keys, *given), index, rotary, draws)]


def law_of_tokens(rng, kind, reps):
    if kind == "isotropic":
        return rng.normal(size=(reps, 3, T, D))
    if kind == "anisotropic":  # moments of condition 1e4, with a mean
        sizes = np.geomspace(1, 1e-2, D)
        mean = rng.normal(size=(reps, 1, 1, D))
        basis = np.stack([haar(rng, D) for _ in range(reps)])[:, None]
        return ((rng.normal(size=(reps, 3, T, D)) + mean) * sizes) @ basis
    frequency = 1 / np.arange(1, D + 1)
    return np.eye(D)[rng.choice(D, size=(reps, 3, T), p=frequency / frequency.sum())]


def random_heads(rng, kind, tokens):
    """Heads whose singular vectors match nothing: iid weights, sigma = 1/k raw, sigma = 1/k in whitened tokens."""
    reps = len(tokens)
    if kind == "iid":
        return rng.normal(size=(2, reps, H, D))
    root = 1 / np.sqrt(np.arange(1, H + 1))[:, None]
    made = np.zeros((2, reps, H, D))
    for i, x in enumerate(tokens.reshape(reps, -1, D)):
        if kind == "low rank":
            made[:, i] = root * haar(rng, D, H).T, root * haar(rng, D, H).T
            continue
        sides = [np.linalg.svd(y, full_matrices=False) for y in (x, x - x.mean(axis=0))]
        present = [s > 1e-6 * s[0] for _, s, _ in sides]
        K = min(H, *(p.sum() for p in present))
        for side, ((_, s, Et), p) in enumerate(zip(sides, present, strict=True)):
            made[side, i, :K] = (root[:K] * haar(rng, p.sum(), K).T / s[p]) @ Et[p]
    return made


def shares(kind, law, choose, reps, bias=False, rotary=False, seed=0):
    """How often p <= 0.05, of heads and of decisions."""
    rng = np.random.default_rng(seed)
    tokens = law_of_tokens(rng, law, reps)
    W_Q, W_K = random_heads(rng, kind, tokens)
    size = np.abs(np.einsum("rhd,rntd->rnth", W_Q, tokens)).mean()
    b = size * rng.normal(size=(2, reps, H)) if bias else None
    p = np.stack(comparisons(tokens, W_Q, W_K, b, rotary, choose)[:2])
    return (p <= 0.05 + 1e-6).mean(axis=1)


def most(reps, errors):
    """The level and so many standard errors."""
    return 0.05 + errors * np.sqrt(0.05 * 0.95 / reps)


@pytest.mark.parametrize(
    ("kind", "law", "choose", "bias", "rotary"),
    [
        ("iid", "isotropic", "attended", False, False),
        ("low rank", "isotropic", "attended", False, False),
        ("low rank", "one-hot", np.arange(T) // 2, False, False),
        ("balanced", "anisotropic", "attended", False, False),
        ("low rank", "anisotropic", "attended", True, True),
    ],
)
def test_the_level_holds(kind, law, choose, bias, rotary):
    assert (shares(kind, law, choose, 200, bias, rotary) <= most(200, 3.3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("choose", ["attended", np.arange(T) // 2])
@pytest.mark.parametrize("law", ["isotropic", "anisotropic", "one-hot"])
@pytest.mark.parametrize("kind", ["iid", "low rank", "balanced"])
def test_the_level_holds_everywhere(kind, law, choose, bias, rotary):
    """72 cells of 500 heads, a share of heads and one of decisions in each, within 4.5 standard errors of the level."""
    assert (shares(kind, law, choose, 500, bias, rotary) <= most(500, 4.5)).all()


def test_the_raw_p_value_is_exact_where_its_null_is_true():
    """Not only at most the level: of iid weights on isotropic tokens either null has p = 0.05 in a twentieth."""
    rng = np.random.default_rng(3)
    p = []
    for seed in range(2):  # of as many heads as elsewhere
        tokens, (W_Q, W_K) = rng.normal(size=(200, 3, T, D)), rng.normal(size=(2, 200, H, D))
        _, _, null, sparseness = comparisons(tokens, W_Q, W_K, seed=seed)
        p.extend((1 + (null <= sparseness[:, None]).sum(axis=1)) / 20)
    assert abs(np.mean(p) - 21 / 40) < 4 * np.sqrt(1 / 12 / 400)
    assert abs((np.array(p) < 0.3001).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)


@pytest.mark.parametrize("choose", ["attended", "index"])
def test_a_head_whose_singular_vectors_are_the_features_is_found(choose):
    """Tokens are features, singular vectors too: a decision is one term, and no random head of 400 is as sparse."""
    rng = np.random.default_rng(4)
    features = haar(rng, D)
    root = np.sqrt(np.linspace(2, 1, H))[:, None]  # equal values would leave the basis open
    head = Head(root * features[:, :H].T, root * features[:, :H].T)
    which = rng.integers(0, D, (B, T))
    index = np.array([[np.flatnonzero(row[: i + 1] == row[i])[0] for i in range(T)] for row in which])
    tokens = features.T[which]
    given = "attended" if choose == "attended" else index
    found = sparseness_test(head, tokens, tokens, jax.random.key(0), DRAWS, given)
    assert found.head_p_value == pytest.approx(1 / (1 + DRAWS))
    assert found.head_sparseness == pytest.approx(1 / H, abs=0.03)
    assert (found.head_null > found.head_sparseness + 0.05).all()


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True)
def test_sparseness_is_that_of_the_decomposition(dtype):
    rng = np.random.default_rng(5)
    head = jax.tree.map(lambda x: np.asarray(x).astype(dtype), some_head(rng, bias=True, rotary=True))
    tokens = some_tokens(rng).astype(dtype)
    found = sparseness_test(head, tokens, tokens, jax.random.key(0), DRAWS)
    S = jax.jit(lambda d: treves_rolls(relative_attention(d)))(decompose(head, tokens, tokens, None))
    np.testing.assert_allclose(found.sparseness, S, rtol=1e-4)
    p = np.asarray(found.p_value)
    assert np.isnan(p[:, 0]).all()  # the first query sees no other key
    assert ((p[:, 1:] > 0) & (p[:, 1:] <= 1)).all()
    assert {x.dtype for x in found} == {dtype}


@pytest.mark.parametrize("rotary", [pytest.param(False, marks=pytest.mark.slow), True])
def test_heads_read_together_are_tested_as_each_alone(rotary):
    rng = np.random.default_rng(6)
    heads = jax.tree.map(lambda *x: np.stack(x), *(some_head(rng, bias=True, rotary=rotary) for _ in range(3)))
    tokens = some_tokens(rng)
    wanted = np.array([True, False, True])
    both = compare_with_random_heads(read_together(heads, tokens, tokens), jax.random.key(0), DRAWS, wanted)
    together = jax.tree.map(lambda x: x[0], both)
    together = jax.tree.map(np.asarray, together)
    assert np.isnan(together.head_null[1]).all()
    assert together.head_p_value[1] == 1
    for i in (0, 2):
        alone = sparseness_test(jax.tree.map(lambda x, i=i: x[i], heads), tokens, tokens, jax.random.key(0), DRAWS)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other[i], rtol=1e-3)


def test_what_makes_no_difference():
    """The size of weights, and what adds one number to all scores of a query: a constant of the keys, their bias."""
    rng = np.random.default_rng(7)
    tokens, (W_Q, W_K) = some_tokens(rng), rng.normal(size=(2, H, D))
    plain = sparseness_test(Head(W_Q, W_K), tokens, tokens, jax.random.key(0), DRAWS)
    for head, keys in (
        (Head(1e-3 * W_Q, 50 * W_K), tokens),
        (Head(W_Q, W_K), tokens + rng.normal(size=D)),
        (Head(W_Q, W_K, b_K=rng.normal(size=H)), tokens),
        (Head(W_Q, W_K, b_Q=np.zeros(H)), tokens),  # a bias of zeros is none
    ):
        same = sparseness_test(head, tokens, keys, jax.random.key(0), DRAWS)
        np.testing.assert_allclose(same.sparseness, plain.sparseness, rtol=2e-3)
        np.testing.assert_allclose(same.head_null, plain.head_null, rtol=2e-3)
        assert same.head_p_value == plain.head_p_value


def test_no_batch_of_factorisations_waits_for_another():
    """Two programs with batches of LAPACK's, one on each device of a CPU of two cores, can wait for ever."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 40)).astype(np.float32)  # wide enough for Cholesky's factors
    W_Q, W_K = rng.normal(size=(2, 1, 2, 40)).astype(np.float32)
    heads = jax.tree.map(lambda x: x[None], Head(W_Q[0], W_K[0]))
    together = read_together(heads, x, x, readings=2)
    shapes = factorisation_shapes(compare_with_random_heads.lower(together, jax.random.key(0), 3).compile())
    assert jax.default_backend() != "cpu" or (shapes and not [shape for shape in shapes if len(shape) > 2])


def test_limiting_cases():
    rng = np.random.default_rng(8)
    tokens = some_tokens(rng)
    # one singular pair: every head has S = 1
    one = sparseness_test(Head(*rng.normal(size=(2, 1, D))), tokens, tokens, jax.random.key(0), DRAWS)
    np.testing.assert_allclose(one.head_null, 1, rtol=1e-5)
    assert one.head_p_value == pytest.approx(1)
    # nothing at all
    zero = sparseness_test(Head(np.zeros((H, D)), np.zeros((H, D))), tokens, tokens, jax.random.key(0), DRAWS)
    assert np.isnan(zero.head_p_value)
    assert np.isnan(zero.p_value).all()
    # tokens of two directions, fewer than the head has dimensions: random heads of the balanced spectrum have rank 2
    plane = rng.normal(size=(B, T, 2)) @ rng.normal(size=(2, D))
    flat = sparseness_test(Head(*rng.normal(size=(2, H, D))), plane, plane, jax.random.key(0), DRAWS)
    assert np.isfinite(flat.head_null).all()
    assert (flat.head_null[1] <= 2 / H + 1e-4).all()
    assert flat.head_p_value == pytest.approx(1)
    # one constant query token, with a bias: it is not centred away
    constant = np.broadcast_to(rng.normal(size=D), (B, T, D))
    head = Head(*rng.normal(size=(2, H, D)), b_Q=rng.normal(size=H))
    assert np.isfinite(sparseness_test(head, constant, tokens, jax.random.key(0), DRAWS).head_null).all()


def test_some_queries_at_their_positions():
    """Queries of the last position alone have the sparseness that they have among all."""
    rng = np.random.default_rng(9)
    head, tokens = some_head(rng, bias=True, rotary=True), some_tokens(rng)
    every = sparseness_test(head, tokens, tokens, jax.random.key(0), DRAWS)
    last = sparseness_test(head, tokens[:, -1:], tokens, jax.random.key(0), DRAWS, position=np.array([T - 1]))
    np.testing.assert_allclose(last.sparseness[:, 0], every.sparseness[:, -1], rtol=1e-3)
    one = sparseness_test(head, tokens[0, -1], tokens[0], jax.random.key(0), DRAWS)
    assert one.sparseness == pytest.approx(float(every.sparseness[0, -1]), rel=1e-3)


def test_bad_input_is_named():
    head, x = Head(np.ones((H, D)), np.ones((H, D))), np.ones((T, D))
    for message, arguments in (
        ("draws must be a whole number of at least 1, got 0", (x, x, jax.random.key(0), 0)),
        ("choose must be one of 'attended', got 'best'", (x, x, jax.random.key(0), 9, "best")),
        (r"choose must be whole numbers of shape \(8,\), got int", (x, x, jax.random.key(0), 9, 3)),
        ("choose must lie from 0 to 7", (x, x, jax.random.key(0), 9, np.full(T, 9))),
        ("choose must hold keys that their queries see", (x, x, jax.random.key(0), 9, np.full(T, 5))),
        ("query must have 10 columns", (x[:, 1:], x, jax.random.key(0), 9)),
        ("position must be given for 1 queries and 8 keys", (x[:1], x, jax.random.key(0), 9)),
    ):
        with pytest.raises(InputError, match=message):
            sparseness_test(head, *arguments)


@pytest.mark.parametrize("where", ["everywhere", "in each sequence"])
def test_keys_that_are_all_alike_decide_nothing(where):
    """Differences of equal scores are rounding, and have no sparseness."""
    rng = np.random.default_rng(0)
    token = rng.normal(size=(1 if where == "everywhere" else B, 1, D))
    tokens = np.broadcast_to(token, (B, T, D)).astype(np.float32)
    head = Head(*rng.normal(size=(2, H, D)).astype(np.float32))
    found = sparseness_test(head, tokens, tokens, jax.random.key(0), DRAWS)
    assert np.isnan(found.sparseness).all()
    assert np.isnan(found.head_p_value)
    rotated = rotation_null(decompose(head, tokens, tokens, None), jax.random.key(0), 9)
    assert np.isnan(rotated.head_p_value)


def test_padding_has_no_part_in_what_heads_read_together():
    """Its decisions are undefined, its tokens 0, and the moments are those of the tokens before it."""
    rng = np.random.default_rng(7)
    heads, tokens = jax.tree.map(lambda x: x[None], some_head(rng, bias=True)), some_tokens(rng)
    real = np.arange(T) < np.array([T, T - 3, T, 2, T, T - 1])[:, None]
    found = []
    for size in (1, 1e3):
        padded = np.where(real[..., None], tokens, size * rng.normal(size=tokens.shape))
        found.append(read_together(heads, padded, padded, real=real))
    assert np.array_equal(np.isnan(found[0].sparseness[0, 0]), ~real | (np.arange(T) == 0))
    for small, large in zip(
        *(jax.tree.leaves((x.sparseness, x.balanced, x.heads.balanced)) for x in found), strict=True
    ):
        assert np.array_equal(small, large, equal_nan=True)
    for side in found[0].balanced:
        coordinates = np.asarray(side.coordinates).reshape(B, T, -1)
        assert not coordinates[~real].any()
        assert coordinates[real].T @ coordinates[real] / real.sum() == pytest.approx(np.eye(D), abs=1e-4)
