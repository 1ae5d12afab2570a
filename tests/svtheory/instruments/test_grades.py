"""Grades and leads, by hand."""

import numpy as np
import pytest
import xarray as xr

from svtheory.heads.hypotheses import Hypothesis
from svtheory.instruments.grades import best, foremost, grades, sentence
from svtheory.instruments.leads import TABLE, best_members, families, leads

SURE = {"functional_cosine": 0.95, "lowest": 0.93, "highest": 0.96, "adjusted_p_value": 0.004}
SURE |= {"margin": 0.4, "margin_lowest": 0.3}


def table(**changes):
    """One head and one hypothesis, with numbers that explain it, but for changes."""
    data = {name: (TABLE, [[[x]]]) for name, x in (SURE | changes).items()}
    return xr.Dataset(data, {"layer": [0], "head": [0], "hypothesis": ["same token"]})


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({}, "explained"),
        ({"functional_cosine": 0.89, "lowest": 0.87}, "explained"),  # 0.87^2 is above 3/4: no cliff at 0.9
        ({"lowest": 0.86}, "partly"),
        ({"margin": 0.19}, "partly"),
        ({"lowest": 0.51}, "partly"),
        ({"lowest": 0.49}, "unexplained"),
        ({"lowest": -0.95}, "unexplained"),
        ({"margin_lowest": -0.01}, "unexplained"),
        ({"margin": -0.1, "margin_lowest": -0.2}, "unexplained"),
        ({"adjusted_p_value": 0.011}, "unexplained"),
        ({"margin": np.nan, "margin_lowest": np.nan}, "partly"),  # nothing to lead
    ],
)
def test_a_grade_asks_for_p_margin_and_the_end_of_the_interval(changes, grade):
    assert grades(table(**changes)).item() == grade


def test_the_best_hypothesis_has_the_best_grade_before_the_largest_cosine():
    first, second = table(lowest=0.6), table(functional_cosine=0.99, margin=-0.1)
    two = xr.concat([first, second.assign_coords(hypothesis=["first position"])], "hypothesis").transpose(*TABLE)
    two = two.assign(grade=grades(two))
    here = foremost(best(two))
    assert here.hypothesis.item() == "same token"
    said = sentence(here)
    asked = '"same token" (the key whose token is the query\'s)'
    assert said.startswith(f"partly explained by {asked}, functional cosine 0.95 (0.60 to 0.96), margin")
    alone = two.isel(hypothesis=[1])
    assert sentence(foremost(best(alone))).startswith('unexplained; nearest is "first position"')


def test_an_interval_that_does_not_hold_its_estimate_says_what_it_is_of():
    here = table(functional_cosine=0.953, lowest=0.88, highest=0.94).assign(grade=(TABLE, [[["explained"]]])).squeeze()
    own = here.assign_coords(hypothesis="one's own")
    assert '"one\'s own", functional cosine 0.95 (drawn again: 0.88 to 0.94), margin 0.40' in sentence(own)


def test_leads_over_permuted_templates_and_other_hypotheses_with_intervals():
    """Two hypotheses, one head; the second's only permuted templates are none."""
    cosine, permuted = np.array([[[0.9, 0.5]]]), np.array([[[[0.6, np.nan], [np.nan, np.nan]]]])
    again = np.stack([np.linspace(0.8, 0.9, 41), np.linspace(0.4, 0.85, 41)], axis=-1)[None, None]
    given = {"functional_cosine": (TABLE, cosine), "permuted": ((*TABLE, "permutation"), permuted)}
    results = xr.Dataset(given, {"layer": [0], "head": [0], "hypothesis": ["one", "two"]})
    found = {name: x[0, 0] for name, (_, x) in leads(results, again).items()}
    np.testing.assert_allclose(found["margin"], [0.3, -0.4])
    assert found["nearest_rival"].tolist() == ["permuted templates", "one"]
    np.testing.assert_allclose(found["lowest"], np.quantile(again[0, 0], 0.025, axis=0))
    drawn = again[0, 0, :, 0] - np.maximum(0.6, again[0, 0, :, 1])
    np.testing.assert_allclose(found["margin_lowest"][0], np.quantile(drawn, 0.025))
    np.testing.assert_allclose(found["margin_highest"][1], np.quantile(again[0, 0, :, 1] - again[0, 0, :, 0], 0.975))
    assert found["rank"].tolist() == [1, 1]
    alone = {name: x[0, 0] for name, (_, x) in leads(results.isel(hypothesis=[1]), again[..., 1:]).items()}
    assert np.isnan(alone["margin"]).all()
    assert alone["nearest_rival"].tolist() == ["none"]


def test_members_that_samples_choose():
    one = Hypothesis("one", np.eye(2), np.eye(2), np.eye(2))
    family = Hypothesis("family", np.eye(2), np.eye(2), np.stack([np.eye(2)] * 3), np.array([10.0, 20, 30]))
    members = np.array([[[0.1, 0.2, 0.9, 0.8]]])
    again = np.array([[0.1, 0.2, 0.9, 0.8]] * 9 + [[0.1, 0.2, 0.3, 0.8]])[None, None]
    assert [x.shape[-1] for x in families([one, family], members)] == [1, 3]
    found = best_members([one, family], members, again)
    np.testing.assert_allclose(found["members_family"].values, members[..., 1:])
    assert found["members_family"].member_family.values.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(found["member"][1][0, 0], [np.nan, 20])
    np.testing.assert_array_equal(found["last_member"][1][0, 0], [np.nan, 30])
