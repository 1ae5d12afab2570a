"""The closed form of the drift (T18): its curve by quadrature, its limits, and the head at the logits asked for."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from svtheory import BernoulliUniform, InputError, Scenario, matching, predict, predict_finite, single_pair
from svtheory.prediction import predict_drift
from svtheory.prediction.drift import saturation

D, N, SAMPLES = 4, 8, 2000
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("double_unless_told_otherwise")


def scenario(strength=40.0, p=0.9, seed=0, shape=(D, N), **options):
    X = np.random.default_rng(seed).normal(size=shape)
    X /= np.linalg.norm(X, axis=0)
    law = BernoulliUniform(p, shape[1])
    target = single_pair(shape[1], shape[1], 0, 1, strength)
    return Scenario(X, X, target, law, law, "softmax", **options)


def cosine(a, b):
    return abs(float(a.left[:, 0] @ b.left[:, 0]))


def test_limits_and_the_direction_of_the_drift():
    """Small logits are T6, a query bias leaves nothing to drift, and a strong target moves towards the mean token."""
    weak, biased, strong = scenario(0.01), scenario(query_bias=True), scenario()
    assert cosine(predict_drift(weak, KEY, SAMPLES), predict(weak)) > 1 - 1e-4
    assert cosine(predict_drift(biased, KEY, SAMPLES), predict(biased)) > 1 - 1e-10
    found, leading = predict_drift(strong, KEY, SAMPLES), predict(strong)
    assert abs(float(found.right[:, 0] @ leading.right[:, 0])) > 1 - 1e-10
    assert found.left.shape == (D, 1)
    at_its_logits = predict_finite(strong, jax.random.key(1), SAMPLES)
    assert cosine(found, at_its_logits) > 0.99
    assert 1 - cosine(leading, at_its_logits) > 5 * (1 - cosine(found, at_its_logits))


def test_the_curve_is_the_least_divergence():
    rng = np.random.default_rng(1)
    g, written = rng.random((200, 3)), rng.normal(size=(200, 3))
    written += g
    levels, curve = map(np.asarray, saturation(30.0, jnp.array([-0.5, 1.0]), g, jnp.asarray(written)[..., None]))
    assert np.allclose(levels[[0, -1]], [-0.5, 1])
    assert (np.diff(levels) > 0).all()
    for k in (3, 20, 32):
        wanted = np.asarray(jax.nn.softmax(30 * levels[k] * g, axis=-1))

        def divergence(a, wanted=wanted):
            x = a * written
            shifted = x - x.max(axis=-1, keepdims=True)
            return -(wanted * (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))).sum(axis=-1).mean()

        best = scipy.optimize.minimize_scalar(divergence, bounds=(-100, 100), method="bounded", options={"xatol": 1e-9})
        assert abs(best.x - curve[k]) < 1e-4 * (1 + abs(curve[k]))


def test_bad_input(dtype):
    s = jax.tree.map(lambda x: jnp.asarray(x, dtype), scenario(2.0))
    assert predict_drift(s, KEY, 100).left.dtype == dtype
    with pytest.raises(InputError, match="objective must be 'softmax' for a drift, got 'square'"):
        predict_drift(replace(s, objective="square"), KEY, 100)
    with pytest.raises(InputError, match=r"weight_decay must be 0 for a drift, got 0\.5"):
        predict_drift(replace(s, weight_decay=0.5), KEY, 100)
    with pytest.raises(InputError, match="target must match a single pair, got 2 entries"):
        predict_drift(replace(s, target=matching(N, N, (0, 1), (0, 1), jnp.ones(2, dtype))), KEY, 100)
    with pytest.raises(InputError, match="samples must be a whole number of at least 2, got 1"):
        predict_drift(s, KEY, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "t", "least"), [(0.2, 80, 0.999), (0.5, 80, 0.998), (0.9, 20, 0.996), (0.9, 80, 0.985)])
def test_the_closed_form_over_frames(p, t, least):
    """Against the best head of the plane, D = 10, N = 20, eight frames, 65,536 contexts for it; printed beside T6."""
    found = []
    for frame in range(8):
        s = scenario(float(t), p, frame, (10, 20))
        best = predict_finite(s, jax.random.key(frame), 65_536)
        found.append([cosine(x, best) for x in (predict_drift(s, jax.random.key(100 + frame), 20_000), predict(s))])
    closed, leading = np.array(found).T
    print(f"p = {p}, t = {t}: closed form {np.median(closed):.4f}, leading order {np.median(leading):.4f}")
    assert np.median(closed) >= least
    assert 1 - np.median(leading) > 2 * (1 - np.median(closed))
