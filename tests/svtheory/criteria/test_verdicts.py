"""Verdicts: ties, pairs that a narrow head drops, other readings, and what is said of them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from criteria_cases import PAIRS, D, M, N, cosine, frame, of, seeds
from hypothesis import given
from hypothesis import strategies as st

from svtheory import (
    BernoulliUniform,
    Gaussian,
    OneHot,
    Scenario,
    conditions,
    matching,
    predict,
    single_pair,
)

pytestmark = pytest.mark.usefixtures("double_unless_told_otherwise")


def padded(X, columns=N):
    """With features of zeros, so that tests share a shape and with it a compiled program."""
    return np.pad(X, ((0, 0), (0, columns - X.shape[1])))


def promises(found, side, feature):
    """What the rows about the trained head's singular vectors promise a feature of a side."""
    rows = [
        np.asarray(row.promise)
        for row in found
        if row.side == side and "early" not in row.statement and row.reading == "raw"
    ]
    return np.array([promise[feature] for promise in rows if promise.ndim])


@given(seeds, st.sampled_from([5.0, 3.0, 1e-3, 1e-6]))
def test_a_pair_that_a_narrow_head_drops_is_promised_nothing(seed, dropped):
    """Orthonormal features: the head keeps the two stronger pairs; what it has of the third is rounding."""
    X = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]
    T = np.asarray(matching(N, M, [0, 1, 2], [1, 0, 3], np.array([5.5, dropped, 7])))
    found = conditions(Scenario(padded(X), padded(X, M), T, head_dim=2))
    for column in found.pairs[:4]:
        assert column[1, 0] == 0
    for side, kept, lost in (("query", [0, 2], 1), ("key", [1, 3], 0)):
        assert np.isnan(promises(found, side, lost)).all()
        np.testing.assert_allclose(promises(found, side, kept), 1, atol=1e-12)
        np.testing.assert_allclose(
            of(found, "T17", side, "fully").margin[np.array([*kept, lost])], [0, 0, 1], atol=1e-12
        )
    wanted = "the singular vectors of 2 pairs are features exactly; no singular vectors can be named for 1 pair; chance"
    assert found.verdict().startswith(f"Fully trained, {wanted}")


@pytest.mark.parametrize("c", [4.95e-4, 1e-5, 1e-8])
@pytest.mark.parametrize("gap", [1.01e-3, 1e-5, 1e-8])
def test_near_a_tie_no_promise_exceeds_the_truth(c, gap):
    """Two nearly orthogonal features of nearly equal strengths turn each other: the SVD by numpy says how far."""
    X = np.array([[1, c], [c, 1]]) / np.sqrt(1 + c**2)
    T = np.diag([5 + 5 * gap, 5])
    U, _, Vt = np.linalg.svd(np.linalg.inv(X.T) @ T @ np.linalg.inv(X))
    found = conditions(Scenario(X, X, T))
    for side, vectors in (("query", U), ("key", Vt.T)):
        cosines = np.abs(vectors.T @ X)
        for feature in (0, 1):
            promised = promises(found, side, feature)
            assert (promised <= cosines[:, feature].max() + 1e-6).all()
            assert np.isfinite(promised).all()
            off = np.abs(np.asarray(of(found, "T17", side, "fully").promise)[feature] - cosines[:, feature])
            assert off.min() < 1e-6


def test_equal_strengths_fix_a_plane_and_nothing_in_it():
    T = np.asarray(matching(N, M, [0, 1], [0, 1], np.array([5.0, 5])))
    features = np.eye(D, N), np.eye(D, M)
    found = conditions(Scenario(*features, T))
    assert np.isnan(promises(found, "query", 0)).all()
    np.testing.assert_allclose(found.pairs.query[[0, 1], [0, 1]], 1, rtol=1e-12)
    wanted = "Fully trained, the values of 2 pairs fix only a space of vectors, which holds its features exactly;"
    assert found.verdict().startswith(wanted)
    T = np.asarray(matching(N, M, [0, 1, 2], [0, 1, 2], np.array([5.0, 5, 1])))
    wanted = "Fully trained, the singular vectors of 1 pair are features exactly; the values of 2 pairs fix only a"
    assert conditions(Scenario(*features, T)).verdict().startswith(wanted)


def test_pairs_that_mix_may_share_a_vector_and_the_verdict_says_so():
    """Two features 60 degrees apart, of one strength: `x~_0 - x~_1` is nearest to both, `x~_0 + x~_1` is nobody's."""
    X = np.array([[1, 0.5], [0, 0.75**0.5]])
    found = conditions(Scenario(X, X, np.eye(2)))
    duals = np.linalg.inv(X.T)
    values = np.linalg.svd(duals @ duals.T, compute_uv=False)
    np.testing.assert_allclose(found.pairs.value.diagonal(), values[0], rtol=1e-12)
    least = cosine(duals[:, 0] - duals[:, 1], X[:, 0])
    wanted = "2 pairs mix and share the singular vectors nearest to them, which are not all features, |cos| >="
    assert found.verdict().startswith(f"Fully trained, {wanted} {least:.4g} is no more than chance")
    assert "unwhitened" not in found.read_back()  # they share it there too
    one_each = conditions(Scenario(X, X, np.array([[1.0, 0], [0, 0.1]])))  # the weak pair is nearest to the second
    assert "mix" not in one_each.verdict()


def read_by_numpy(scenario, omega):
    """Vectors read from Omega without laws, by reading: query and key side."""
    (P, s, _), (Q, z, _) = (
        np.linalg.svd(np.asarray(F), full_matrices=False) for F in (scenario.query_features, scenario.key_features)
    )
    U, _, Vt = np.linalg.svd(omega)
    seen = np.linalg.svd((P * s).T @ omega @ (Q * z))
    unwhitened = (P * s**2) @ P.T @ U, (Q * z**2) @ Q.T @ Vt.T
    return {"unwhitened": unwhitened, "balanced": ((P * s) @ seen[0], (Q * z) @ seen[2].T)}


def test_what_other_readings_show_and_why():
    """Three pairs: margins are the naive ones, cosines those of numpy's SVD, promises no more and tight (T15, T22)."""
    i, j, strengths = PAIRS
    T = np.asarray(matching(N, M, i, j, np.array(strengths)))
    few = (np.isin(np.arange(N), [*i, 3]), np.isin(np.arange(M), [*j, 3]))  # independent; the others are zero
    for present, exact in ((few, True), ((1, 1), False)):
        X, Y = frame(0) * present[0], frame(1, M) * present[1]
        scenario = Scenario(X, Y, T)
        found = conditions(scenario)
        by_numpy = read_by_numpy(scenario, np.linalg.pinv(X.T) @ T @ np.linalg.pinv(Y))
        for side, F, number in (("query", X, 0), ("key", Y, 1)):
            at = PAIRS[number]
            L, P = np.linalg.pinv(F) @ F, np.linalg.pinv(F.T)
            for theorem, overlap in (("T15", P.T @ P), ("T22", L)):
                G = overlap[np.ix_(at, at)]
                size = np.sqrt(G.diagonal())
                row = of(found, theorem, side, "orthogonal" if theorem == "T15" else "leverage")
                wanted = np.abs(G / size[:, None] / size - np.eye(3)).max(axis=1)
                np.testing.assert_allclose(row.margin[np.array(at)], wanted, atol=1e-9)
                vectors = by_numpy[row.reading][number]
                cosines = np.abs(vectors.T @ F)[:, at] / np.linalg.norm(F, axis=0)[at]
                cosines /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)[:, None]
                predicted = np.asarray(getattr(found.readings[row.reading], side))[i, j]
                assert np.abs(cosines - predicted).min(axis=0).max() < 1e-9
                promised = np.asarray(row.promise)[at]
                assert np.isfinite(promised).all() == (exact and theorem == "T22")
                if exact and theorem == "T22":
                    np.testing.assert_allclose(promised, 1, atol=1e-12)
        assert ("balanced exactly" in found.read_back()) == exact
        hidden = found.readings["balanced"]._replace(
            query=0.01 + 0 * found.pairs.query, query_sine=1 + 0 * found.pairs.query
        )
        told = replace(found, readings={**found.readings, "balanced": hidden}).read_back()
        own = "" if exact else " (1 pair of 3)"  # in superposition the two others share a mode
        assert f"balanced{own} not all, |cos| >= 0.01 is no more than chance" in told
        np.testing.assert_array_equal(found.readings["raw"].query, found.pairs.query)
        assert np.allclose(np.asarray(of(found, "T22", "query", "read back").margin)[i], 0, atol=1e-7)


def test_a_mean_that_the_head_sees_mixes_patterns_and_is_told():
    """Independent features: under softmax with a query bias patterns are features, with a squared loss they are not."""
    X, Y = frame(0) * (np.arange(N) < D), frame(1, M) * (np.arange(M) < D)
    T = np.asarray(matching(N, M, range(3), range(3), np.array([3.0, 2.0, 1.0])))
    laws = BernoulliUniform(0.6, N), BernoulliUniform(0.6, M)
    square = conditions(Scenario(X, Y, T, *laws))
    laws = [Gaussian(law.mean(), law.covariance()) for law in laws]
    softmax = conditions(Scenario(X, Y, T, *laws, "softmax", query_bias=True))
    assert np.nanmin(softmax.readings["balanced"].query) > 1 - 1e-12
    assert np.nanmax(of(softmax, "T22", "query", "read back").margin) < 1e-7
    assert np.nanmin(square.readings["balanced"].query) < 0.95
    assert np.nanmin(of(square, "T22", "query", "read back").margin) > 0.1
    assert np.isnan(of(square, "T22", "query", "leverage").promise).all()


def test_a_tie_at_the_head_dimension_is_no_pair():
    T = np.asarray(matching(N, M, [0, 1, 2], [0, 1, 2], np.array([5.0, 3.0, 3.0])))
    X = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    found = conditions(Scenario(padded(X), padded(X, M), T, head_dim=2))
    np.testing.assert_allclose(found.pairs.value[[0, 1, 2], [0, 1, 2]], [5, 0, 0], atol=1e-12)
    assert np.isfinite(promises(found, "query", 0)).all()
    assert np.isnan([promises(found, "query", i) for i in (1, 2)]).all()


@pytest.mark.parametrize(
    ("dtype", "dim"),
    [
        ("float32", 768),
        ("float64", D),
        pytest.param("float32", D, marks=pytest.mark.slow),
        pytest.param("float64", 768, marks=pytest.mark.slow),
    ],
    indirect=["dtype"],
)
@pytest.mark.parametrize("tilt", [1e-2, 7.4])
def test_a_tilt_is_not_exact(dtype, dim, tilt):
    """Two features of a plane whose first is `tilt` degrees from its singular vector: `x~_0` is orthogonal to x_1."""
    angle = np.radians(tilt)
    X = np.zeros((dim, 2))
    X[0], X[1, 1] = [1, np.sin(angle)], np.cos(angle)
    T = np.asarray(single_pair(N, M, 0, 0, 1.0), dtype)
    found = conditions(Scenario(jnp.asarray(padded(X), dtype), jnp.asarray(padded(X, M), dtype), T, head_dim=2))
    np.testing.assert_allclose(found.pairs.query_sine[0, 0], np.sin(angle), rtol=1e-2)
    assert "exactly" not in found.verdict()
    assert ("|cos| >= 0.9917" if tilt > 1 else "|cos| >= 1 - 1.5e-08") in found.verdict()


def test_below_chance_the_verdict_says_so():
    """One feature nearly in the hyperplane of the others' mean direction: the cosines are no more than chance."""
    X = frame(0)
    X[:, 1] = X[:, 0] + 1e-2 * X[:, 1]
    T = np.asarray(single_pair(N, M, 0, 1, 1.0))
    found = conditions(Scenario(padded(X[:, :4]), padded(X[:, :4], M), T))
    dual = np.linalg.inv(X[:, :4].T)
    least = min(cosine(dual[:, 0], X[:, 0]), cosine(dual[:, 1], X[:, 1]))
    assert least < 0.4
    wanted = f"singular vectors are not all features, |cos| >= {least:.4g} is no more than chance; chance is 0.4244."
    assert found.verdict() == f"Fully trained, {wanted}"


@pytest.mark.parametrize("e", [1e-1, 1e-3, 1e-6])
def test_the_margin_of_an_eigenvector_is_the_angle_of_its_probe(e):
    """X = [[1, e], [0, e]]: S x_0 is within e^2 of x_0, while its singular vector is 45 degrees off."""
    X = np.array([[1, e], [0, e]])
    found = conditions(Scenario(X, np.eye(2), np.asarray(single_pair(2, 2, 0, 0, 1.0))))
    wanted = np.sqrt(1 - cosine(np.linalg.inv(X.T)[:, 0], X[:, 0]) ** 2)
    for part in ("eigenvector of", "tight groups"):
        margin = np.nanmax(of(found, "T2", "query", part).margin)
        np.testing.assert_allclose(margin, wanted if part != "tight groups" else max(wanted, margin), rtol=1e-5)
    assert wanted == pytest.approx(np.sqrt(0.5), rel=1e-6)


def test_a_bias_that_can_do_the_work_of_omega_is_told():
    """One-hot queries of independent tokens, some of two features: w . x_i = 1 for all i has a solution w."""
    law, T = OneHot(N), np.asarray(single_pair(N, N, 0, 1, 2.0))
    for columns, told in ((4, False), (3, False), (7, True)):
        X = frame(0)[:, np.arange(N) % columns]  # of one shape for one compiled program
        scenario = Scenario(X, X, T, law, law, "softmax", query_bias=True)
        w = np.linalg.lstsq(X.T, np.ones(N))[0]
        assert np.allclose(X.T @ w, 1) != told
        margin = of(conditions(scenario), "T6", "query", "told apart").margin
        assert (margin == 0) == told
        assert (predict(scenario).gaps[0] > 0) == told
        assert predict(replace(scenario, query_bias=False)).gaps[0] > 0
