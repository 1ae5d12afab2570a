"""What every test of an experiment also shows of the programs that it compiles for several devices."""

import re

import jax
import pytest

from sims.engines import devices

# a result of three axes, the first of them of two or more
BATCH = re.compile(r"= \(?[a-z]\d+\[(?!1,)\d+,\d+,\d+[^=]*custom-call\(.*(lapack|blas)_")


@pytest.fixture(autouse=True, scope="session")
def no_batch_of_factorisations_waits_for_another():
    """Batches of LAPACK's, one on each device of a CPU of two cores, can wait for one another for ever."""
    bytes_of = devices.bytes_of  # asked of each program before it runs

    def looked_through(program):
        calls = program.as_text().splitlines() if jax.default_backend() == "cpu" else []
        assert not [line for line in calls if BATCH.search(line)]
        return bytes_of(program)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "bytes_of", looked_through)
        yield
