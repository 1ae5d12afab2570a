"""Strict tests: no array changes rank silently, warnings are errors (pyproject), theory runs in both precisions."""

import os

# Before numpy and scipy load them: the BLAS threads of several processes on few cores wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests compile more than they compute.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax
import jax.numpy as jnp
import pytest

hypothesis.settings.register_profile("strict", derandomize=True, deadline=None, database=None, max_examples=8)
hypothesis.settings.load_profile("strict")


@pytest.fixture(autouse=True)
def no_silent_broadcasting():
    """Operands of different rank raise; only scalars broadcast."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Run the test in float32 and in float64, mixing of the two forbidden."""
    with jax.enable_x64(request.param == "float64"), jax.numpy_dtype_promotion("strict"):
        yield jnp.dtype(request.param)


@pytest.fixture
def eps(dtype):
    """The machine epsilon of `dtype`."""
    return float(jnp.finfo(dtype).eps)
