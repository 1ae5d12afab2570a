import jax
import numpy as np
import pytest
import xarray as xr

from sims.lab import comparing
from sims.models.tasks import reaches
from sims.models.trained import Recipe, Trained

REACH = 3  # its place among the reaches


@pytest.fixture(scope="module")
def heads():
    """What is read of one transformer whose head is a decaying order of orthonormal numbers, by hand."""
    recipe = Recipe("next_larger", members=1, biases=True)
    numbers, dim, room = 16, recipe.shape.dim, recipe.shape.head_dim
    T = recipe.given.hypotheses[comparing.MATCH].template[REACH]
    U, values, Vt = np.linalg.svd(T)
    features = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, numbers)))[0]
    none = np.zeros((1, 1, room))
    weights = {
        "W_E": features,
        "W_P": np.zeros((dim, recipe.given.length)),
        "W_Q": 100 * (features @ U * values).T[None, None],
        "W_K": (features @ Vt.T).T[None, None],
        "W_V": (features @ np.eye(numbers)).T[None, None],
        "W_O": features[None, None],
        "W_U": features.T[None],
        # a head has a query bias where it is not zero: its queries are centred
        "b_Q": none + 1e-9,
        "b_K": none,
        "b_V": none,
    }
    parameters = {name: np.asarray(x, np.float32)[None, None] for name, x in weights.items()}
    with jax.numpy_rank_promotion("raise"):
        return comparing.compared(Trained(recipe, parameters, np.zeros(1), 0, 0), 0, 128, 99, 5)


def test_a_head_that_compares_is_told(heads):
    """To the reach of its order, from random heads, rivals and permutations; its patterns are those predicted."""
    assert heads.attention.item() > 0.5
    assert heads.functional_cosine.item() > 0.99
    assert heads.low.item() <= heads.functional_cosine.item() <= heads.high.item() + 1e-6
    assert heads.reach.item() == reaches(16)[REACH]
    assert heads.p_value.item() == pytest.approx(0.01)
    assert heads.permuted_cosine.item() < 0.8
    assert (heads.rival_cosine < 0.8).all()
    assert (heads.pattern > 0.99).all()
    assert ((heads.pattern_chance < heads.pattern_high) & (heads.pattern_high < heads.pattern)).all()


def test_rules(heads):
    """All hold of two such heads that are right; ones that err, do not lead or are at chance are found out."""

    def failed(heads):
        return [row["quantity"] for row in comparing.rows(heads) if not row["holds"]]

    two = xr.concat([heads, heads], "transformer").assign(accuracy=("transformer", [1.0, 1.0]))
    assert failed(two) == []
    assert failed(two.assign(accuracy=two.accuracy - 0.02)) == ["accuracy"]
    leads = [f"lead over {name}" for name in heads.rival.values]
    assert failed(two.assign(rival_cosine=two.rival_cosine * 0 + 0.85)) == leads
    assert len(failed(two.assign(pattern=two.pattern_high - 0.01))) == 2
    assert comparing.summary(two)["median_transformer_reach"] == reaches(16)[REACH]
    assert len(comparing.exhibit(two).figure.axes) == 2
