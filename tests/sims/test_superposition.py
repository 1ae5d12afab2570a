import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims import superposition
from sims.superposition import read
from svtheory.geometry import antipodal, polygon, tegum

SMALL = [
    *("--members", "2", "--n-features", "8", "--dim", "4", "--head-dim", "4", "--n-keys", "4"),
    *("--probabilities", "0.1", "--batch", "128", "--steps", "1500", "--rate", "0.01"),
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return superposition.main([*SMALL, "--out", str(tmp_path_factory.mktemp("runs"))])


def test_features_are_spread_evenly_and_the_matched_ones_leave(outcome):
    assert outcome.summary["matched_dimensionality_median"] > 0.95
    plain = outcome.results.sel(member=outcome.results.kind == "no head")
    assert plain.dimensionality.sum("feature").values == pytest.approx([4, 4], rel=0.1)
    assert (plain.isel(feature=[0, 1]).dimensionality < 0.8).all()


def test_dimensionality_is_the_polytopes(outcome):
    assert outcome.summary["mean_distance_from_level"] < 0.02
    assert outcome.summary["cosine_with_dual_median"] > 0.999
    assert {row["quantity"].split(",")[0] for row in outcome.rows} == {"head", "no head"}


def test_a_known_geometry_is_read():
    W = jnp.column_stack([tegum(polygon(5), antipodal(1)), 0.01 * jnp.ones(3)])
    found = jax.jit(read)(W)
    np.testing.assert_allclose(found["dimensionality"], [0.4] * 5 + [0.5] * 2 + [0], atol=1e-6)
    assert found["vertices"].tolist() == [5] * 5 + [2] * 2 + [0]
    np.testing.assert_allclose(found["cosine_dual"][:7], 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probabilities", "0"], "--probabilities must be finite numbers above 0 and at most 1, got (0.0,)"),
        (["--strength", "-1"], "--strength must be a finite number above 0, got -1.0"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        superposition.main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
