import numpy as np
import pytest
import xarray as xr

from sims import reading
from sims.lab.three_pairs import setting
from svtheory.spectra import READINGS

SMALL = ["--dim", "5", "--conditions", "100", "--crowds", "1", "--densities", "0.6", "--strengths", "5"]
SMALL += ["--head-dims", "2", "--frames", "2", "--steps", "300", "--softmax-steps", "150", "--contexts", "256"]


def results(balanced, raw, off=0.0, p=0.025, change=1e-12):
    """Heads of condition number 100 under both objectives, all their cosines alike."""
    places = [(objective, n) for objective in ("square", "softmax") for n in range(3)]
    cosines = np.array([raw, 0.8, balanced])[None, :, None, None] * np.ones((len(places), 3, 2, 3))
    axes = ("head", "reading", "side", "pair")
    small = ("balanced_change", "normalised_scores", "normalised_moments")
    arrays = {
        "predicted": (axes, cosines + off),
        "measured": (axes, cosines),
        "p_value": (axes[:2], 0 * cosines[..., 0, 0] + p),
    }
    arrays |= {name: ("head", np.full(len(places), change)) for name in small}
    arrays |= {
        name: ("head", np.full(len(places), 0.5)) for name in ("raw_change", "unscaled_moments", "whitened_cosine")
    }
    arrays["chance"] = arrays["p_value"]
    labels = {"knob": ["condition number"] * 6, "objective": [place[0] for place in places], "value": [100.0] * 6}
    return xr.Dataset(arrays, {"reading": list(READINGS)} | {name: ("head", x) for name, x in labels.items()})


EXACT = xr.Dataset(
    {"sine_balanced": ("predicted_head", [1e-12, 1e-12]), "sine_raw": ("predicted_head", [0.0, 0.5])},
    {"exact_condition": ("predicted_head", [1.0, 1e4])},
)


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, set()),
        ({"raw": 0.7}, {"|cos| of raw vectors, N = D"}),
        ({"balanced": 0.98}, {"|cos| of patterns, N = D"}),
        ({"p": 0.2}, {"p of recovered features, balanced"}),
        (
            {"change": 1e-6},
            {
                "change of basis: balanced values and terms",
                *(
                    f"query-key norm: {reading.NORMALISED[name]}"
                    for name in ("normalised_scores", "normalised_moments")
                ),
            },
        ),
    ],
)
def test_each_rule_fails_for_what_it_is_about(changed, broken):
    claims = reading._claims(results(**{"balanced": 1.0, "raw": 0.4, **changed}), EXACT)
    assert {row["varies"] for row in claims if not row["holds"]} == broken
    assert len(claims) == 4 + ("balanced" not in changed) + 2 + 3 + 3


def test_a_prediction_that_is_off_is_told():
    for off, holds in ((0.01, True), (0.03, False)):
        rows = [reading._row(*cell) for cell in reading._cells(results(0.95, 0.4, off))]
        assert [row["holds"] for row in rows] == [holds, holds]
        assert {row["recovered, trained"] for row in rows} == {"none"}


def test_one_setting_a_cell_is_the_knob():
    assert setting("softmax", "strength", 40.0)["strength"] == 40
    assert setting("square", "density", 0.9)["density"] == 0.9
    assert setting("square", "crowd", 2.0)["crowd"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crowds", "0.2"], "--crowds must leave 3 features in 10 dimensions, got (0.2,)"),
        (["--head-dims", "11"], "--head-dims must be at most --dim, 10, got (11,)"),
        (["--conditions", "0.5"], "--conditions must be finite numbers of at least 1, got (0.5,)"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        reading.main([*arguments, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_patterns_are_features_where_theory_says_so(tmp_path):
    """At small size, all of it."""
    outcome = reading.main([*SMALL, "--out", str(tmp_path)])
    found, rows = outcome.results, outcome.rows
    square = found.sel(head=found.objective == "square")
    exact = square.sel(head=square.knob != "density", reading="balanced")
    assert np.nanmin(exact.measured) > 0.99
    assert square.sel(reading="raw").measured.median() < 0.9
    mixed = square.sel(head=square.knob == "density", reading="balanced")
    assert mixed.predicted.mean() < 0.95
    assert np.abs(square.predicted - square.measured).max() < 0.05
    assert np.isfinite(found.measured.sel(head=found.objective == "softmax")).all()
    held = {row["varies"]: row["holds"] for row in rows if row["objective"] == "both"}
    assert len(held) == 6
    assert all(held[name] for name in held if not name.startswith("p of"))
    # pairs that a narrow head drops are not read; random heads are the null, 39 of each kind
    narrow = found.sel(head=(found.knob == "head dimension") & (found.value == 2))
    assert np.isnan(narrow.measured.sel(pair=2)).all()
    assert np.isfinite(narrow.measured.sel(pair=[0, 1])).all()
    chance = found.chance.sel(reading="balanced")
    assert (chance < 0.9).all()
    assert (chance > 0.3).all()
    assert np.allclose(found.p_value * 40, np.round(found.p_value * 40))


@pytest.mark.slow
def test_the_bars_of_balanced_reading(tmp_path):
    """Condition number 100: patterns >= 0.99, raw below 0.6; values, terms and predicted patterns to 1e-8."""
    rows = reading.main(["--crowds", "1", "--strengths", "5", "--head-dims", "1", "--out", str(tmp_path)]).rows
    claims = [row for row in rows if row["varies"].startswith(("|cos|", "p of", "change", "sine", "query-key"))]
    assert len(claims) == 4 + 1 + 2 + 3 + 9
    assert all(row["holds"] for row in claims)
