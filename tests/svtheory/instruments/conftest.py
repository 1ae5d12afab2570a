"""Whatever the command of an instrument leaves in these tests says what each array is, and in which unit."""

import pytest
import xarray as xr

from svtheory.instruments import command
from svtheory.instruments.labels import unlabelled


@pytest.fixture(autouse=True, scope="session")
def every_array_is_labelled():
    """For all instruments, new ones too: their tests run their commands."""
    perform = command.perform

    def checked(*given):
        outcome = perform(*given)
        found = outcome.results
        datasets = [node.dataset for node in found.subtree] if isinstance(found, xr.DataTree) else [found]
        bare = [name for results in datasets for name in results.variables if unlabelled(results[name])]
        assert not bare, f"{given[0]}: give {', '.join(map(str, bare))} a label in its table VARIABLES"
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "perform", checked)
        yield
