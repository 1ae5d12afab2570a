import numpy as np
import pytest

from svtheory.reports.plotting import (
    COLOURS,
    chance_line,
    measured,
    measured_at_each,
    panels,
    predicted_against_measured,
    style,
)


def test_panels_have_the_shape_asked_for():
    figure, axes = panels(columns=3, rows=2, width=2, height=1)
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [6, 2]


def test_the_prediction_is_one_line_through_all_points():
    _, ((ax,),) = panels()
    predicted_against_measured(ax, [0.2, 0.8], [0.3, 0.7], yerr=[0.1, 0.1], label="trained")
    predicted_against_measured(ax, [-1.0], [2.0])
    lines = [line for line in ax.lines if line.get_label() == "predicted"]
    assert len(lines) == 1
    x, y = lines[0].get_data()
    assert np.array_equal(x, y)
    assert x[0] <= -1.0
    assert x[-1] >= 2.0
    assert ax.get_legend_handles_labels()[1] == ["predicted", "trained"]


def test_measurements_are_points_with_error_bars_and_may_be_restyled():
    _, ((ax,),) = panels()
    measured(ax, [1, 2], [3, 4], yerr=[0.1, 0.2], color=COLOURS[2], fmt="s")
    points = ax.containers[0].lines[0]
    assert (points.get_marker(), points.get_linestyle(), points.get_color()) == ("s", "None", COLOURS[2])
    assert len(ax.containers[0].lines[2]) == 1


def test_measurements_of_one_place_are_a_mean_with_their_deviation():
    _, ((ax,),) = panels()
    measured_at_each(ax, [2.0, 1.0, 2.0, 1.0], [3.0, 1.0, 5.0, 1.0])
    x, y = ax.containers[0].lines[0].get_data()
    assert (x.tolist(), y.tolist()) == ([1, 2], [1, 4])
    low, high = ax.containers[0].lines[2][0].get_segments()[1][:, 1]
    assert high - low == pytest.approx(2 * 2**0.5)


def test_chance_is_named_with_its_level():
    _, ((ax,),) = panels()
    chance_line(ax, 0.259)
    assert ax.get_legend_handles_labels()[1] == ["chance, 0.26"]


def test_the_style_ends_with_its_block():
    import matplotlib

    before = matplotlib.rcParams["axes.grid"]
    with style():
        assert matplotlib.rcParams["axes.grid"]
    assert matplotlib.rcParams["axes.grid"] == before


@pytest.mark.parametrize("points", [[0.5], [1.0, 1.0]])
def test_points_without_extent_are_drawn(points):
    figure, ((ax,),) = panels()
    predicted_against_measured(ax, points, points)
    figure.draw_without_rendering()
