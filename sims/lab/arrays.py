"""Arrays in a file that a user gives: .npz, nothing pickled, or .safetensors."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from svtheory.checks import InputError


def read_arrays(name: str, path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of the file that option `name` gives; raises InputError for anything that is no such file."""
    if path.suffix not in (".npz", ".safetensors") or not path.is_file():
        raise InputError(f"{name} must be an existing .npz or .safetensors file, got {str(path)!r}")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _unzipped(path)
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError, TypeError, EOFError, KeyError) as error:
        raise InputError(f"{name} must hold whole arrays of numbers, got {str(path)!r}: {error}") from error


def _unzipped(path: Path) -> Mapping[str, np.ndarray]:
    # np.load leaves a file that it opened itself open when the archive is broken
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
