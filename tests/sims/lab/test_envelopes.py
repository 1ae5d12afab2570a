import numpy as np
import xarray as xr

from sims.lab.envelopes import carried, lowest_line


def test_the_lowest_state_of_lines():
    """Two toys, of reconstruction 0 and 1 and leakage 3 and 0: they cross at 1/3."""
    table = lowest_line(np.geomspace(0.1, 1, 200), np.array([[0.0], [1.0]]), np.array([3.0, 0.0]), CROWDING)
    assert np.allclose(table.threshold, 1 / 3, rtol=0.02)
    assert np.allclose(table.energy, np.minimum(3 * table.coupling, 1))
    assert np.allclose(table.s.sel(coupling=1), 1)


CROWDING = np.array([[2.0, 2.0], [1.0, 1.0]])


def test_a_parabola_is_carried_to_its_value_at_zero():
    p = [0.3, 0.1, 0.02]
    values = np.array([[2 + 3 * q - 5 * q**2, 1 - q] for q in p])
    table = xr.Dataset({"threshold": (("probability", "change"), values)}, {"probability": p})
    assert np.allclose(carried(table, "threshold", p), [2, 1])
