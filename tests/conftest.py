"""Strict tests: no array changes rank silently, warnings are errors (pyproject), theory runs in both precisions."""

import contextlib
import functools
import gc
import os
import tempfile
from importlib import metadata
from pathlib import Path

# Before numpy and scipy load them: the BLAS threads of several processes on few cores wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests compile more than they compute.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Half the time of compilation goes into the newer emitters of loops and into dividing a program among threads, a fifth
# of what is left into passes over loops, which loops as short as the tests' do not pay back. XLA aborts on a flag that
# it does not know, so they are given to the releases that are known to know them.
if metadata.version("jaxlib").startswith("0.10."):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 --xla_disable_hlo_passes="
    passes = "simplify-while-loops,while-loop-invariant-code-motion,while-loop-constant-sinking"
    os.environ.setdefault("XLA_FLAGS", quick + passes)
# What one of the processes that share them has compiled, the others read. A folder of one's own that outlives the run,
# given in this variable, makes the next run quicker too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="svtheory-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import jax
import jax.numpy as jnp
import pytest

hypothesis.settings.register_profile("strict", derandomize=True, deadline=None, database=None, max_examples=8)
hypothesis.settings.load_profile("strict")
# jax makes a context of MLIR, with all its dialects, for each program anew: an eighth of the processor time of tests
# that mostly compile small programs (22.4 s instead of 25.3 s of four files). One serves a whole process. There is no
# public switch for it: this is the one private name of another package, and where it is gone tests only take longer.
with contextlib.suppress(ImportError, AttributeError):
    from jax._src.interpreters import mlir

    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
# Traces and programs fill the heap with what lives on; looking through it often finds nothing and takes its time.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True)
def no_silent_broadcasting():
    """Operands of different rank raise; only scalars broadcast."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def no_more_programs_than_a_process_may_map():
    """Each compiled program takes some memory maps; a process that reaches Linux's limit of them, 65,530, crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Run the test in float32 and in float64, mixing of the two forbidden."""
    with jax.enable_x64(request.param == "float64"), jax.numpy_dtype_promotion("strict"):
        yield jnp.dtype(request.param)


@pytest.fixture
def eps(dtype):
    """The machine epsilon of `dtype`."""
    return float(jnp.finfo(dtype).eps)


@pytest.fixture
def double_unless_told_otherwise(request):
    """Run the test in float64, unless it takes `dtype`."""
    with contextlib.nullcontext() if "dtype" in request.fixturenames else jax.enable_x64(True):
        yield
