"""What every test of an experiment also shows of the programs that it compiles for several devices."""

import math

import jax
import pytest

from sims.engines import devices
from tests.factorisation_shapes import factorisation_shapes


@pytest.fixture(autouse=True, scope="session")
def no_batch_of_factorisations_waits_for_another():
    """Batches of LAPACK's, one on each device of a CPU of two cores, can wait for one another for ever."""
    bytes_of = devices.bytes_of  # asked of each program before it runs

    def looked_through(program):
        shapes = factorisation_shapes(program) if jax.default_backend() == "cpu" else []
        assert not [shape for shape in shapes if math.prod(shape[:-2]) > 1]
        return bytes_of(program)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "bytes_of", looked_through)
        yield
