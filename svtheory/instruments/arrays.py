"""Arrays that a user gives in a file: .npz, from which nothing is unpickled, or .safetensors."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from svtheory.checks import InputError


def read_arrays(path: Path, required: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The arrays of a file, shorter floats than float32 as float32.

    Raises InputError for anything that is no such file, lacks an array, or holds anything but real numbers.
    """
    if path.suffix not in (".npz", ".safetensors") or not path.is_file():
        raise InputError(f"FILE must be an existing .npz or .safetensors file, got {str(path)!r}")
    try:
        arrays = load_file(path) if path.suffix == ".safetensors" else _unzipped(path)
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError, TypeError, EOFError, KeyError) as error:
        raise InputError(f"FILE must hold whole arrays of numbers, got {str(path)!r}: {error}") from error
    if missing := [name for name in required if name not in arrays]:
        raise InputError(f"FILE must hold {', '.join(required)}, got one without {' and '.join(missing)}")
    if text := [name for name, array in arrays.items() if not _real(array)]:
        raise InputError(f"FILE must hold real numbers, got {text[0]} of type {arrays[text[0]].dtype}")
    return {name: array.astype(np.float32) if _short(array) else array for name, array in arrays.items()}


def _short(array: np.ndarray) -> bool:
    """Whether an array is of floats shorter than float32: float16, bfloat16 and shorter ones."""
    return jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4


def _real(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)


def _unzipped(path: Path) -> Mapping[str, np.ndarray]:
    # np.load leaves a file that it opened itself open when the archive is broken
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
