"""Random scenarios: every vector that `predict` names and every promise of `conditions` against direct optimisation.

Shapes, laws, objective, bias and head dimension are those of a setting; features (some of them dependent, nearly so, or
with a large common vector), targets (some of equal or nearly equal strengths) and moments are drawn. The heads compared
with are optimised in numpy, in float64, from moments written here: least squares for a head of full rank, L-BFGS on the
factors of a narrow or decayed one. A prediction is right, flagged by a gap of 0, or refused.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, Gaussian, InputError, OneHot, Scenario, conditions, nameable, predict

RIGHT = 0.03
"""The largest sine between a named vector and the optimised head's, and error of a value in units of sigma_1."""
CLEAR = 0.01
"""Gaps, in units of the largest value, from which a pair is expected to be named in float64."""

traced = jax.jit(predict)


def predicted(scenario):
    """NaN where it is refused; the solver for weight decay (T24) is compiled for scenarios that have some."""
    return traced(scenario) if np.asarray(scenario.weight_decay) else predict(scenario)


class Setting(NamedTuple):
    """What is compiled once: shapes and static options."""

    D: int
    N: int
    M: int
    laws: tuple[str, str] | None = None
    objective: str = "square"
    query_bias: bool = False
    head_dim: int | None = None
    decayed: bool = False
    tight: bool = False


SETTINGS = [
    Setting(4, 7, 6),
    Setting(6, 6, 5),
    Setting(7, 4, 5, head_dim=2),
    Setting(4, 8, 8, head_dim=1),
    Setting(4, 8, 7, decayed=True, tight=True),
    Setting(5, 8, 8, head_dim=2, decayed=True, tight=True),
    Setting(5, 9, 8, ("bernoulli", "gaussian")),
    Setting(8, 5, 6, ("gaussian", "onehot")),
    Setting(5, 8, 7, ("gaussian", "bernoulli"), head_dim=2),
    Setting(5, 9, 8, ("bernoulli", "bernoulli"), "softmax"),
    Setting(8, 6, 6, ("onehot", "onehot"), "softmax"),
    Setting(5, 8, 8, ("onehot", "onehot"), "softmax", head_dim=2),
    Setting(5, 9, 8, ("gaussian", "gaussian"), "softmax", query_bias=True),
    Setting(8, 6, 5, ("onehot", "bernoulli"), "softmax", query_bias=True),
    Setting(4, 8, 8, ("bernoulli", "bernoulli"), "softmax", query_bias=True, head_dim=1),
    Setting(5, 8, 8, ("bernoulli", "onehot"), "softmax", query_bias=True, head_dim=2),
    Setting(6, 5, 5, ("gaussian", "gaussian"), "softmax", query_bias=True, head_dim=2),
    Setting(7, 5, 5, ("onehot", "onehot"), "softmax", query_bias=True, head_dim=2),
    Setting(10, 20, 20, ("bernoulli", "bernoulli"), "softmax", query_bias=True, head_dim=3),
    Setting(3, 12, 2, ("gaussian", "bernoulli")),
]
DECAYED = [
    Setting(4, 6, 6, decayed=True),
    Setting(5, 8, 7, ("bernoulli", "bernoulli"), decayed=True),
    Setting(5, 8, 8, ("bernoulli", "gaussian"), "softmax", query_bias=True, decayed=True),
]
"""With weight decay on moments that are not tight (T24)."""


class Drawn(NamedTuple):
    """A scenario as given, and the features (exactly dependent ones stay so) and atoms of its laws in float64."""

    scenario: Scenario
    features: list[np.ndarray]
    target: np.ndarray
    roots: list[np.ndarray]
    means: list[np.ndarray]


def drawn(setting, rng, dtype):
    features, exact = zip(*(drawn_features(rng, setting, n, dtype) for n in (setting.N, setting.M)), strict=True)
    T = drawn_target(rng, setting).astype(dtype)
    sizes = setting.N, setting.M
    kinds = setting.laws or (None, None)
    laws, roots, means = zip(*(drawn_law(rng, *given, dtype) for given in zip(kinds, sizes, strict=True)), strict=True)
    scenario = Scenario(
        *(jnp.asarray(x) for x in (*features, T)),
        *laws,
        objective=setting.objective,
        head_dim=setting.head_dim,
        query_bias=setting.query_bias,
        weight_decay=jnp.asarray(rng.choice([0.1, 0.5, 2.0]) if setting.decayed else 0.0, dtype),
    )
    return Drawn(scenario, exact, T.astype(float), roots, means)


def drawn_features(rng, setting, n, dtype):
    """Features as given and as meant: what is exactly dependent is so before it is rounded."""
    D = setting.D
    kind = "tight" if setting.tight else rng.choice(["generic", "dependent", "near", "common", "lengths", "orthogonal"])
    X = rng.normal(size=(D, n))
    smallest = -5 if dtype == np.float32 else -9
    if kind == "tight":
        X = np.linalg.qr(X.T)[0].T * rng.uniform(0.5, 2)
    if kind in ("dependent", "near"):
        rank = rng.integers(1, min(D, n))
        low = rng.normal(size=(D, rank)) @ rng.normal(size=(rank, n))
        X = low + X * 10 ** rng.uniform(smallest, -1) * (kind == "near")
    if kind == "common":
        X = X + rng.normal(size=(D, 1)) * 10 ** rng.uniform(0, 3)
    if kind == "lengths":
        X = X * 10 ** rng.uniform(-2, 2, size=n)
    if kind == "orthogonal":
        X = np.linalg.qr(rng.normal(size=(D, D)))[0][:, np.arange(n) % D] * np.where(np.arange(n) < D, 1, -1)
    given = X.astype(dtype)
    return given, X if kind in ("dependent", "tight", "orthogonal") else given.astype(float)


def drawn_target(rng, setting):
    T = np.zeros((setting.N, setting.M))
    kind = rng.choice(["one", "several", "equal", "near", "star", "dense"])
    if kind == "dense":
        return rng.normal(size=T.shape)
    count = 1 if kind == "one" else min(3, *T.shape)
    rows, columns = rng.permutation(setting.N)[:count], rng.permutation(setting.M)[:count]
    strengths = rng.uniform(0.5, 5, size=count) * rng.choice([-1, 1], size=count)
    if kind in ("equal", "near"):
        strengths = strengths[0] * (1 + 10.0 ** rng.uniform(-6, -1, size=count) * (kind == "near"))
    T[rows[0] if kind == "star" else rows, columns] = strengths
    return T


def drawn_law(rng, kind, size, dtype):
    """A law, a root of its covariance by its definition, and its mean."""
    if kind is None:
        return None, np.eye(size), np.zeros(size)
    if kind == "bernoulli":
        p = rng.uniform(0.05, 1, size=size).astype(dtype)
        law, p = BernoulliUniform(jnp.asarray(p), size), p.astype(float)
        return law, np.diag(np.sqrt(p / 3 - p**2 / 4)), p / 2
    if kind == "onehot":
        p = rng.dirichlet(np.full(size, 3.0)).astype(dtype)
        law, p = OneHot(size, jnp.asarray(p)), p.astype(float) / p.astype(float).sum()
        return law, (np.eye(size) - p[:, None]) * np.sqrt(p), p
    rank = rng.integers(1, size + 1)
    B = rng.normal(size=(size, rank)) * 10 ** rng.uniform(-1, 1, size=(size, 1))
    mean = rng.normal(size=size).astype(dtype)
    V = (B @ B.T).astype(dtype)
    root = np.linalg.cholesky(V.astype(float)) if rank == size else B
    return Gaussian(jnp.asarray(mean), jnp.asarray(V)), root, mean.astype(float)


class Truth(NamedTuple):
    """What the objective makes of a scenario: optimised Omega, whether it is the only one, M of T17, token roots."""

    omega: np.ndarray
    decided: bool
    start: np.ndarray
    tokens: tuple[np.ndarray, np.ndarray]

    def read(self, reading):
        """Query and key vectors that are read from Omega (T15, T22), and their values."""
        (P, s), (Q, z) = (range_of(Z) for Z in self.tokens)
        if reading == "balanced":
            U, values, Vt = np.linalg.svd((P * s).T @ self.omega @ (Q * z))
            return (P * s) @ U, values, ((Q * z) @ Vt.T).T
        U, values, Vt = np.linalg.svd(self.omega)
        if reading == "unwhitened":
            U, Vt = (P * s**2) @ (P.T @ U), ((Q * z**2) @ (Q.T @ Vt.T)).T
        return U, values, Vt


def truth(drawn):
    """The head that minimises the objective of a scenario, to leading order in the logits for softmax."""
    X, Y = drawn.features
    (R, S), (mu, nu), T, scenario = drawn.roots, drawn.means, drawn.target, drawn.scenario
    softmax, lawful = scenario.objective == "softmax", scenario.query_law is not None
    biased, decay = softmax and scenario.query_bias, float(scenario.weight_decay)
    if lawful and not softmax:
        S = np.column_stack([S, nu])
    if lawful and not biased:
        R = np.column_stack([R, mu])
    tokens, asked = (X @ R, Y @ S), R.T @ T @ S
    seen = tokens
    start, decided = tokens[0] @ asked @ tokens[1].T, True
    if biased:
        decided = rank(np.column_stack([tokens[0], X @ mu])) == rank(tokens[0])
    if biased and not decay:  # the head reads (r; 1)
        R = np.column_stack([R, mu])
        tokens = np.vstack([X @ R, np.eye(1, R.shape[1], R.shape[1] - 1)]), tokens[1]
        asked = R.T @ T @ S
    if decay == 0 and scenario.rank == scenario.dim:
        half = np.linalg.lstsq(tokens[0].T, asked, rcond=1e-12)[0]
        return Truth(np.linalg.lstsq(tokens[1].T, half.T, rcond=1e-12)[0].T[: scenario.dim], decided, start, seen)
    if decay and scenario.rank == scenario.dim:
        share = 1 - 1 / scenario.n_keys if softmax else 1
        return Truth(of_decayed_factors(tokens, asked, decay / share), decided, start, seen)
    omega, core = of_factors(tokens, asked, scenario.rank, decay)
    modes = np.append(np.linalg.svd(core, compute_uv=False), np.zeros(scenario.rank + 1))
    decided &= modes[scenario.rank - 1] - modes[scenario.rank] > CLEAR * modes[0]
    return Truth(omega[: scenario.dim], bool(decided), start, seen)


def rank(Z):
    return np.linalg.matrix_rank(Z, 1e-9 * np.linalg.norm(Z))


def of_factors(tokens, asked, H, decay):
    """Omega of the factors that L-BFGS finds, in coordinates in which the tokens are white, and its target there.

    With decay, which knows no such coordinates, the tokens must be white but for a scale.
    """
    (U, s), (V, z) = (range_of(Z) for Z in tokens)
    core = (U / s).T @ tokens[0] @ asked @ tokens[1].T @ (V / z)
    pull = decay / (s[0] * z[0])

    def loss(flat):
        W_Q, W_K = flat[: H * len(s)].reshape(H, -1), flat[H * len(s) :].reshape(H, -1)
        error = W_Q.T @ W_K - core
        slope = np.concatenate([(W_K @ error.T).ravel(), (W_Q @ error).ravel()]) + pull * flat
        return ((error**2).sum() + pull * (flat @ flat)) / 2, slope

    size = np.abs(core).max()
    begin = np.random.default_rng(0).normal(size=H * (len(s) + len(z))) * np.sqrt(size) / 3
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-13 * size, "maxcor": 60}
    flat = scipy.optimize.minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
    W_Q, W_K = flat[: H * len(s)].reshape(H, -1), flat[H * len(s) :].reshape(H, -1)
    return (U / s) @ W_Q.T @ W_K @ (V / z).T, core


def of_decayed_factors(tokens, asked, decay):
    """Omega of the factors that L-BFGS finds with decay, with room for all modes: `(1/2)|Z^T Omega Z' - asked|^2`."""
    (U, s), (V, z) = (range_of(Z) for Z in tokens)
    Z, W = (basis.T @ tokens_ for basis, tokens_ in ((U, tokens[0]), (V, tokens[1])))
    H, g = min(len(s), len(z)), decay / (s[0] * z[0]) ** 2
    Z, W, asked = Z / s[0], W / z[0], asked / (s[0] * z[0])

    def loss(flat):
        W_Q, W_K = flat[: H * len(s)].reshape(H, -1), flat[H * len(s) :].reshape(H, -1)
        error = Z.T @ W_Q.T @ W_K @ W - asked
        pull = Z @ error @ W.T
        return ((error**2).sum() + g * (flat @ flat)) / 2, np.append(W_K @ pull.T, W_Q @ pull) + g * flat

    begin = np.random.default_rng(0).normal(size=H * (len(s) + len(z))) * np.abs(asked).max() ** 0.5
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-13 * np.abs(asked).max(), "maxcor": 60}
    flat = scipy.optimize.minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
    return U @ flat[: H * len(s)].reshape(H, -1).T @ flat[H * len(s) :].reshape(H, -1) @ V.T


def range_of(Z):
    U, s, _ = np.linalg.svd(Z, full_matrices=False)
    inside = s > 1e-12 * s[0]
    return U[:, inside], s[inside]


def sine(a, b):
    return np.linalg.norm(b - (a @ b) * a)


class Verdict(NamedTuple):
    """Of one scenario: which pairs are named, which have a clear gap, and what is wrong."""

    named: np.ndarray
    clear: np.ndarray
    problems: list[str]


def judged(setting, seed, dtype):
    """What `predict` and `conditions` say of one scenario, against its optimised head."""
    with jax.enable_x64(dtype == np.float64):
        case = drawn(setting, np.random.default_rng(seed), dtype)
        found = predicted(case.scenario)
        named = np.asarray(nameable(found))
        if np.isnan(found.values).any():
            with pytest.raises(InputError, match="too ill-conditioned"):  # T24
                conditions(case.scenario)
        listed = () if np.isnan(found.values).any() else conditions(case.scenario)
        found = jax.tree.map(lambda x: np.asarray(x, float), found)
    head = truth(case)
    U, values, Vt = np.linalg.svd(head.omega)
    off = [
        max(
            sine(U[:, k], found.left[:, k]),
            sine(Vt[k], found.right[:, k]),
            abs(values[k] - found.values[k]) / values[0],
        )
        for k in range(named.size)
    ]
    problems = [f"pair {k} is off by {off[k]:.3g}" for k in np.flatnonzero(named) if off[k] > RIGHT]
    for row in listed:
        if row.side == "both":
            continue
        early = "early" in row.statement
        promised = above_best(row, case, np.linalg.svd(head.start) if early else head.read(row.reading))
        # in float32 rounding turns vectors with decay by more than near a cosine of 1 would show
        if promised > (RIGHT if setting in DECAYED and dtype == np.float32 else RIGHT**2):
            problems.append(f"{row.theorem} {row.side}: {row.statement} promises {promised:.3g} too much")
    steps = np.diff(values, append=0)
    gaps = np.minimum(values, np.minimum(-steps, np.append(np.inf, -steps[:-1])))[: named.size]
    return Verdict(named, head.decided & (gaps > CLEAR * values[0]), problems)


def above_best(row, case, decomposed):
    """By how much a promise is above the largest |cos| of the feature with a singular vector; -1 for no promise."""
    U, values, Vt = decomposed
    features, vectors = (case.features[0], U) if row.side == "query" else (case.features[1], Vt.T)
    lengths = np.linalg.norm(features, axis=0)
    sizes = np.linalg.norm(vectors, axis=0)[: len(values), None]
    vectors = vectors[:, : len(values)]
    products = vectors.T @ features / np.where(sizes > 0, sizes, 1) / np.where(lengths > 0, lengths, 1)
    cosines = np.abs(products)[values > 1e-9 * values[0]]
    promise = np.broadcast_to(np.asarray(row.promise, float), lengths.shape)
    return np.where(np.isfinite(promise), promise - cosines.max(axis=0, initial=0), -1).max()


def counted(settings, draws, dtype, of=SETTINGS):
    """How many pairs are named, how many have a clear gap, how many of those are named; asserts that all is right."""
    verdicts = {(i, n): judged(of[i], 1000 * i + n, dtype) for i in settings for n in range(draws)}
    problems = {place: verdict.problems for place, verdict in verdicts.items() if verdict.problems}
    assert not problems
    named, clear = (np.concatenate([getattr(v, name) for v in verdicts.values()]) for name in ("named", "clear"))
    return named.sum(), clear.sum(), (named & clear).sum()


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [(0, np.float64), pytest.param(3, np.float32, marks=pytest.mark.slow), (6, np.float32), (14, np.float64)],
)
def test_five_scenarios_are_right_or_flagged(setting, dtype):
    named, clear, both = counted([setting], 5, dtype)
    assert named >= 4
    assert both >= clear / 2  # to flag everything is no answer; of 20 settings together more are named, below


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_four_hundred_scenarios_are_right_or_flagged(dtype):
    """Seen: 570 pairs named in float64, 480 in float32, none wrong; 476 of 507 and 414 of 510 clear ones named."""
    named, clear, both = counted(range(len(SETTINGS)), 20, dtype)
    print(f"{dtype.__name__}: {named} pairs named, {both} of {clear} clear ones")
    assert both >= (0.9 if dtype == np.float64 else 0.7) * clear


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "share"), [(np.float64, 0.5), (np.float32, 0.2)])
def test_sixty_decayed_scenarios_are_right_or_flagged(dtype, share):
    """T24 bounds its error by the least curvature: in float32 much is flagged, and near-singular moments are refused.

    Seen: 70 pairs named in float64, none wrong, 60 of 91 clear ones; 22 of 94 in float32.
    """
    named, clear, both = counted(range(len(DECAYED)), 20, dtype, DECAYED)
    print(f"{dtype.__name__}: {named} pairs named, {both} of {clear} clear ones")
    assert both >= share * clear


@pytest.mark.parametrize("seed", range(8))
def test_a_real_query_bias_takes_its_share_of_a_narrow_head(seed):
    """T7 on (r; 1): D = 6, N = 12, p = 0.8, two pairs, H = 1. Centred queries (T6) would be another head."""
    rng, p = np.random.default_rng(seed), np.full(12, 0.8)
    X, T = rng.normal(size=(6, 12)), np.zeros((12, 12))
    T[0, 1], T[2, 3] = rng.uniform(1, 2, size=2)
    R, mu = np.diag(np.sqrt(p / 3 - p**2 / 4)), p / 2
    with jax.enable_x64(True):
        laws = BernoulliUniform(0.8, 12), BernoulliUniform(0.8, 12)
        scenario = Scenario(X, X, T, *laws, objective="softmax", query_bias=True, head_dim=1)
        found = jax.tree.map(np.asarray, predicted(scenario))
    head = truth(Drawn(scenario, [X, X], T, [R, R], [mu, mu]))
    U, values, Vt = np.linalg.svd(head.omega)
    assert head.decided
    assert max(sine(U[:, 0], found.left[:, 0]), sine(Vt[0], found.right[:, 0])) < 1e-6
    np.testing.assert_allclose(found.values[0], values[0], rtol=1e-6)
    centred, _ = of_factors((X @ R, X @ R), R.T @ T @ R, 1, 0.0)
    assert sine(np.linalg.svd(centred)[0][:, 0], U[:, 0]) > 1e-3
