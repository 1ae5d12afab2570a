import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control

from svtheory import HeadBundle
from svtheory.instruments.survey import adjusted, over_heads, places, side_by_side, stacked_heads

LAYERS, HEADS, H, D = 2, 3, 2, 4
RNG = np.random.default_rng(0)
W_Q, W_K = RNG.normal(size=(2, LAYERS, HEADS, H, D)).astype(np.float32)
TOKENS = RNG.normal(size=(LAYERS, 5, D)).astype(np.float32)
DIVISORS = {"score_divisor": "2, 5"}


@pytest.fixture(scope="module")
def bundle():
    return HeadBundle(W_Q, W_K, metadata=DIVISORS)


def test_heads_are_stacked_by_layer_with_what_their_layer_says(bundle):
    stacked = stacked_heads(bundle)
    assert [heads.W_Q.shape for heads in stacked] == [(HEADS, H, D)] * LAYERS
    np.testing.assert_array_equal(stacked[1].W_K, W_K[1])
    assert [heads.divisor for heads in stacked] == [2, 5]


def test_a_reading_of_every_head_is_labelled(bundle):
    """Scores of the layer's first token with all of them, less a number of the head's, times one for all."""

    def read(head, tokens, number, factor):
        scores = (head.W_Q @ tokens[0]) @ (head.W_K @ tokens.T) / head.divisor
        return {"score": factor * (scores - number), "highest": scores.max(), "unused": scores}

    numbers = np.arange(LAYERS * HEADS, dtype=np.float32).reshape(LAYERS, HEADS)
    found = over_heads(read, bundle, {"score": ("key",), "highest": ()}, (TOKENS,), (jnp.asarray(numbers),), (2.0,))
    assert set(found.data_vars) == {"score", "highest"}
    assert found.score.dims == ("layer", "head", "key")
    assert found["head"].values.tolist() == [0, 1, 2]
    for layer, head in np.ndindex(LAYERS, HEADS):
        x = TOKENS[layer].astype(float)
        scores = x[0] @ W_Q[layer, head].T.astype(float) @ W_K[layer, head] @ x.T / (2, 5)[layer]
        here = found.sel(layer=layer, head=head)
        np.testing.assert_allclose(here.score, 2 * (scores - numbers[layer, head]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(here.highest, scores.max(), rtol=1e-4)


def test_places_come_in_order_and_records_stand_side_by_side():
    results = xr.Dataset({"x": (("layer", "head"), np.arange(6).reshape(2, 3))})
    assert [int(here.x) for here in places(results, "layer", "head")] == [0, 1, 2, 3, 4, 5]
    assert [here.x.values.tolist() for here in places(results, "head")] == [[0, 3], [1, 4], [2, 5]]
    records = [{"name": "a", "series": np.arange(2)}, {"name": "b", "series": np.ones(2)}]
    found = side_by_side(records, "row", {"series": ("step",)})
    assert found.series.dims == ("row", "step")
    assert found.name.values.tolist() == ["a", "b"]


def test_p_values_are_adjusted_over_the_first_axes_alone():
    p = RNG.uniform(size=(2, 3, 4))
    p[0, 1, 2] = np.nan
    found = adjusted(p, 2)
    for k in range(4):
        alone = np.where(np.isnan(p[..., k]), 1, p[..., k]).ravel()
        np.testing.assert_allclose(found[..., k].ravel(), false_discovery_control(alone))
