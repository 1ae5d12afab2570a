"""Input checks: one sentence that names the argument, the value and what is allowed."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


class InputError(ValueError):
    """What the caller gave is wrong; the message names the argument, its value and what is allowed."""


def concrete(x: Any) -> bool:
    """Whether the values of `x` can be looked at now (False while JAX traces)."""
    return not isinstance(x, Tracer)


def real_array(name: str, x: Any, ndim: int | None = None) -> Array:
    """`x` as a finite real array, non-empty and of `ndim` axes; floats keep their dtype, integers become floats.

    Raises TypeError for anything but real numbers and InputError for a wrong shape or a non-finite entry.
    """
    try:
        given = x if isinstance(x, Array) else np.asarray(x)
        numeric = jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)
    except (TypeError, ValueError):
        numeric = False
    if not numeric:
        raise TypeError(f"{name} must be an array of real numbers, got {_brief(x)}")
    with np.errstate(over="ignore"):  # what overflows is reported below
        array = jnp.asarray(given)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    if ndim is not None and array.ndim != ndim:
        raise InputError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{name} must not be empty, got shape {array.shape}")
    if concrete(array) and not np.isfinite(np.asarray(array)).all():
        raise InputError(
            f"{name} must be finite, got {int((~np.isfinite(np.asarray(array))).sum())} entries that are not"
        )
    return array


def whole(name: str, x: Any, least: int) -> int:
    """`x` as an int of at least `least`; raises InputError otherwise."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer) or x < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {_brief(x)}")
    return int(x)


def index(name: str, x: Any, size: int) -> int:
    """`x` as an index into `size` things; raises InputError when it is out of range."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer) or not 0 <= x < size:
        raise InputError(f"{name} must be a whole number from 0 to {size - 1}, got {_brief(x)}")
    return int(x)


def one_of(name: str, x: Any, allowed: tuple[str, ...]) -> str:
    """`x` if it is one of `allowed`; raises InputError otherwise."""
    if x not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {_brief(x)}")
    return x


def _brief(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else f"{text[:57]}..."
