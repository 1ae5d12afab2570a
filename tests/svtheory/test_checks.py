import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory.checks import InputError, index, one_of, real_array, whole


def test_real_array_keeps_the_dtype(dtype):
    assert real_array("X", np.ones(3, dtype)).dtype == dtype
    assert real_array("X", [[1, 2]]).dtype == jnp.result_type(float)
    assert real_array("X", np.float32(2.0)).dtype == jnp.float32


def test_real_array_lets_tracers_pass():
    def checked(x):
        with pytest.raises(InputError, match=r"X must have 1 axes, got shape \(2, 2\)"):
            real_array("X", x, ndim=1)
        return real_array("X", x, ndim=2)

    assert jnp.isnan(jax.jit(checked)(jnp.full((2, 2), jnp.nan))).all()


@pytest.mark.parametrize(
    ("bad", "kind", "sentence"),
    [
        ("text", TypeError, "X must be an array of real numbers, got 'text'"),
        (None, TypeError, "X must be an array of real numbers, got None"),
        ([True], TypeError, r"X must be an array of real numbers, got \[True\]"),
        ([1j], TypeError, r"X must be an array of real numbers, got \[1j\]"),
        ([[1.0], [1.0, 2.0]], TypeError, "X must be an array of real numbers"),
        ([*range(40), "x"], TypeError, r"got \[0, 1, .*\.\.\.$"),
        (1.0, InputError, r"X must have 1 axes, got shape \(\)"),
        ([], InputError, r"X must not be empty, got shape \(0,\)"),
        ([1.0, np.nan, np.inf], InputError, "X must be finite, got 2 entries that are not"),
    ],
)
def test_real_array_refuses(bad, kind, sentence):
    with pytest.raises(kind, match=sentence):
        real_array("X", bad, ndim=1)


def test_a_number_too_large_for_float32_is_not_finite():
    with pytest.raises(InputError, match="X must be finite, got 1 entries that are not"):
        real_array("X", [1e300])


@pytest.mark.parametrize("bad", [0, 1.0, True, None, "2"])
def test_whole_refuses(bad):
    with pytest.raises(InputError, match=rf"^size must be a whole number of at least 1, got {bad!r}$"):
        whole("size", bad, 1)


@pytest.mark.parametrize("bad", [3, -1, 1.0, True])
def test_index_refuses(bad):
    with pytest.raises(InputError, match=rf"^query must be a whole number from 0 to 2, got {bad!r}$"):
        index("query", bad, 3)


def test_numbers_of_numpy_are_numbers():
    assert (whole("size", np.int32(4), 1), index("query", np.int64(2), 3)) == (4, 2)
    assert (type(whole("size", np.int32(4), 1)), type(index("query", np.int64(2), 3))) == (int, int)


def test_one_of():
    assert one_of("objective", "square", ("square", "softmax")) == "square"
    with pytest.raises(InputError, match=r"^objective must be one of 'square', 'softmax', got 'cube'$"):
        one_of("objective", "cube", ("square", "softmax"))


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError)
