"""Input checks: one sentence that names the argument, the value and what is allowed."""

import operator
import warnings
from dataclasses import is_dataclass
from numbers import Real
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

Kind = TypeVar("Kind")


class InputError(ValueError):
    """What the caller gave is wrong; the message names the argument, its value and what is allowed."""


def concrete(x: Any) -> bool:
    """Whether the values of `x` can be looked at now (False while JAX traces)."""
    return not isinstance(x, Tracer)


class PrecisionWarning(UserWarning):
    """Numbers of a caller's array were rounded to float32, because x64 is off; given once a process."""


def real_array(name: str, x: Any, ndim: int | None = None, endless: bool = False) -> Array:
    """`x` as a real array, non-empty, of `ndim` axes and finite, or `endless`: infinite too.

    float32 and float64 keep their dtype, shorter floats become float32, and integers become floats at once, whatever
    their size. Where x64 is off, longer floats become float32: a PrecisionWarning says so, once a process, where that
    changes a number. Tensors of torch are read without their gradients.
    Raises TypeError for anything but real numbers and InputError for a wrong shape, masked entries, an entry that is
    not finite, in the dtype it is to have, or an array that vanishes there.
    """
    if hasattr(x, "__jax_array__"):
        x = jnp.asarray(x)
    given = x if isinstance(x, Array) else _read(name, x)
    if jnp.issubdtype(given.dtype, jnp.floating):
        dtype = given.dtype if given.dtype.itemsize == 4 else jnp.float32 if given.dtype.itemsize < 4 else float
    elif jnp.issubdtype(given.dtype, jnp.integer):
        dtype = float
    else:
        raise _not_real(name, x)
    with np.errstate(over="ignore", under="ignore"):  # what is lost is reported below
        array = given.astype(jnp.result_type(dtype))
    if ndim is not None and array.ndim != ndim:
        raise InputError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{name} must not be empty, got shape {array.shape}")
    if concrete(array):
        _check_values(name, x, np.asarray(given), np.asarray(array), endless)
    return jax.device_put(array)  # where jnp.asarray would compile a program for each new shape


def _read(name: str, x: Any) -> np.ndarray:
    """`x` as numpy sees it; numbers of Python that fit no dtype of integers as float64."""
    if _masked(x):
        raise InputError(f"{name} must have no masked entries, got some: fill them or leave them out")
    try:
        # a torch.nn.Parameter gives its numbers only so
        given = np.asarray(x.detach() if hasattr(x, "detach") else x)
    except Exception as error:  # each library has its own
        raise _not_real(name, x, f" ({_brief(str(error), 120)})") from error
    numbers = given.dtype == object and all(isinstance(n, Real) and not isinstance(n, bool) for n in given.flat)
    try:
        return given.astype(np.float64) if numbers else given
    except OverflowError:
        raise InputError(f"{name} must be finite, got a number that float64 does not hold") from None


def _masked(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return any(map(_masked, x))
    return isinstance(x, np.ma.MaskedArray) and bool(np.ma.getmaskarray(x).any())


def _check_values(name: str, x: Any, given: np.ndarray, array: np.ndarray, endless: bool) -> None:
    """Refuse what is not finite or vanishes in its new dtype; say once what is rounded to float32."""
    lost = ~np.isfinite(array) & ~(endless & (given == array))
    if lost.any():
        where = f" in {array.dtype}" if np.isfinite(given).all() else ""
        raise InputError(f"{name} must be finite, got {int(lost.sum())} entries that are not{where}")
    if array.dtype == given.dtype or given.dtype.itemsize < array.dtype.itemsize:
        return
    if np.abs(array).max() < np.finfo(array.dtype).tiny and given.any():
        raise InputError(
            f"{name} must not vanish in {array.dtype}, got no entry above {float(np.abs(given).max()):.3g}"
        )
    # the floats of a list have no precision that anybody chose
    chosen = given.ndim > 0 and not (isinstance(x, list | tuple) and given.dtype.kind == "f")
    if chosen and array.dtype == np.float32 and (array != given).any():
        _say_rounded(name, given.dtype)


_rounded_said = False


def _say_rounded(name: str, dtype: np.dtype) -> None:
    global _rounded_said
    if not _rounded_said:
        _rounded_said = True
        warnings.warn(
            f"{name} is {dtype} and rounded to float32, as all that follows, because x64 is off; "
            'jax.config.update("jax_enable_x64", True) keeps it',
            PrecisionWarning,
            stacklevel=5,
        )


def held(name: str, result: Array, given: Array | None = None) -> Array:
    """`result`, made of the argument `name`; raises InputError where its dtype does not hold it.

    That is where it is not finite, or, with a `given` that cannot give 0 unless it is 0, where it has become 0.
    """
    vanished = given is not None and concrete(given) and concrete(result) and np.any(given) and not np.any(result)
    if vanished or (concrete(result) and not np.isfinite(np.asarray(result)).all()):
        size = "small" if vanished else "large"
        raise InputError(f"{name} must be of a size whose products {result.dtype} holds, got one too {size}")
    return result


def _not_real(name: str, x: Any, why: str = "") -> TypeError:
    return TypeError(f"{name} must be an array of real numbers, got {_brief(repr(x))}{why}")


def non_negative(name: str, x: Any, ndim: int = 0, endless: bool = False) -> Array:
    """`x` as a `real_array` of `ndim` axes; raises InputError for a number below 0 as well."""
    array = real_array(name, x, ndim, endless)
    if concrete(array) and not (np.asarray(array) >= 0).all():
        raise InputError(f"{name} must be at least 0, got {float(np.asarray(array).min())}")
    return array


def instance(name: str, x: Any, kind: type[Kind]) -> Kind:
    """`x` if it is of that class, whatever its leaves; raises InputError otherwise."""
    if not isinstance(x, kind):
        raise InputError(f"{name} must be a {kind.__name__}, got {told(x)}")
    return x


def random_key(name: str, x: Any) -> Array:
    """`x` if it is one key of `jax.random`, typed or raw; raises InputError otherwise."""
    typed = isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    raw = isinstance(x, Array | np.ndarray) and x.dtype == np.uint32 and x.shape in ((2,), (4,))
    if not (raw or (typed and x.ndim == 0)):
        raise InputError(f"{name} must be a key of jax.random, such as jax.random.key(0), got {told(x)}")
    return x  # pyright: ignore


def whole(name: str, x: Any, least: int) -> int:
    """`x` as an int of at least `least`; raises InputError otherwise."""
    number = _integer(x)
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {_brief(repr(x))}")
    return number


def index(name: str, x: Any, size: int) -> int:
    """`x` as an index into `size` things; raises InputError when it is out of range."""
    number = _integer(x)
    if number is None or not 0 <= number < size:
        raise InputError(f"{name} must be a whole number from 0 to {size - 1}, got {_brief(repr(x))}")
    return number


def _integer(x: Any) -> int | None:
    """`x` as an int if it is one, of Python, numpy or JAX; None for a truth value and anything else."""
    if isinstance(x, bool):
        return None
    try:
        return operator.index(x)
    except TypeError:
        return None


def flag(name: str, x: Any) -> bool:
    """`x` if it is True or False; raises InputError otherwise."""
    if not isinstance(x, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {_brief(repr(x))}")
    return bool(x)


def one_of(name: str, x: Any, allowed: tuple[str, ...]) -> str:
    """`x` if it is one of `allowed`; raises InputError otherwise."""
    if not isinstance(x, str) or x not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {_brief(repr(x))}")
    return x


def told(x: Any) -> str:
    """What was given in place of something else: an array by its shape, a dataclass by its name."""
    if is_dataclass(x):
        return f"a {type(x).__name__}"
    return f"an array of shape {x.shape}" if isinstance(x, Array | np.ndarray) else _brief(repr(x))


def _brief(text: str, length: int = 60) -> str:
    """The text on one line and not too long."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
