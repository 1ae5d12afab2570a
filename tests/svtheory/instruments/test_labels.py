import importlib

import numpy as np
import pytest
import xarray as xr

from svtheory.instruments import INSTRUMENTS
from svtheory.instruments.labels import SHARED, label, labelled, unlabelled


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_has_a_table_of_what_its_arrays_say(name):
    """That its results follow it is seen where its command runs: see conftest.py beside this."""
    variables = importlib.import_module(f"svtheory.instruments.{name}").VARIABLES
    assert variables
    for array, given in {**SHARED, **variables}.items():
        said = label(given)
        assert all(said[of].strip() for of in ("long_name", "units")), array
        # of these, xarray would make times of numbers
        assert said["units"] not in ("days", "hours", "minutes", "seconds"), array
        assert "since" not in said["units"], array


def test_arrays_without_a_name_or_unit_are_found():
    results = xr.Dataset({"x": ("layer", np.ones(2)), "own": ((), 1.0, {"long_name": "own", "units": "bits"})})
    with pytest.raises(KeyError, match="x"):
        labelled(results, {"y": "something else"})
    found = labelled(results.assign_coords(layer=[0, 1]), {"x": ("length of a vector", "m")})
    assert found.x.attrs == {"long_name": "length of a vector", "units": "m"}
    assert found.own.attrs == {"long_name": "own", "units": "bits"}
    assert found.layer.attrs["units"] == "1"
    assert not any(unlabelled(found[name]) for name in found.variables)
    assert not results.x.attrs
    for lacking in ("long_name", "units"):
        assert unlabelled(found.x.assign_attrs({lacking: ""}))


def test_labels_outlast_the_file(tmp_path):
    results = labelled(xr.Dataset({"time": ("layer", [1.0])}, {"layer": [0]}), {"time": ("time", "1 / rate")})
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "results.nc", engine="h5netcdf") as stored:
        assert {name: stored[name].attrs for name in stored.variables} == {
            name: results[name].attrs for name in results.variables
        }
