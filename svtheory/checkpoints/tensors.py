"""Tensors: those of the safetensors files of one folder, each read when it is asked for, and only its part."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from svtheory.checkpoints.architecture import Place
from svtheory.checks import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PREFIXES = ("transformer.", "gpt_neox.", "model.")  # present where the folder also holds an unembedding
FLOATS = ("F16", "BF16", "F32", "F64")


class Tensors:
    """Tensors of a folder by name, without the model's prefix; opening reads the files' headers only.

    Raises InputError for a folder without safetensors files, an index that cannot be read, a missing or broken file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._found: dict[str, tuple[Path, str, tuple[int, ...], str]] = {}
        for path in _files(folder):
            for name, (shape, dtype) in _header(path).items():
                self._found[_without_prefix(name)] = path, name, shape, dtype

    def check(self, place: Place) -> None:
        """Raise InputError unless the tensor of `place` is there, with its shape, in floating point."""
        if place.name not in self._found:
            raise InputError(f"the checkpoint must hold {place.name}, got {str(self.folder)!r} without it")
        *_, shape, dtype = self._found[place.name]
        if shape != place.shape:
            raise InputError(f"{place.name} must have shape {place.shape}, as config.json says, got {shape}")
        if dtype not in FLOATS:
            raise InputError(f"{place.name} must hold floating-point numbers, got {dtype}")

    def read(self, place: Place) -> np.ndarray:
        """The weight at `place` as float32, (out, in); raises InputError where it is not finite or cannot be read."""
        path, name, *_ = self._found[place.name]
        rows = slice(place.start, place.stop)
        try:
            with safe_open(path, framework="np") as file:
                tensor = file.get_slice(name)
                part = tensor[:, rows].T if place.transposed else tensor[rows]
        except (SafetensorError, OSError) as error:
            raise _broken(path, error) from error
        with np.errstate(over="ignore"):  # what overflows is reported below
            part = np.ascontiguousarray(part, np.float32)
        if not np.isfinite(part).all():
            raise InputError(f"{place.name} must be finite, got {int((~np.isfinite(part)).sum())} entries that are not")
        return part


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; raises InputError for a file that is missing or holds none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} must be a JSON file in the checkpoint's folder, got {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} must hold a JSON object, got {type(content).__name__}")
    return content


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise InputError(f"the checkpoint must be a folder with {SINGLE} or {INDEX}, got {str(folder)!r}")
        return [folder / SINGLE]
    shards = read_json(folder / INDEX).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    # an index names files of its own folder, never paths
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"weight_map of {INDEX} must map tensors to files of the folder, got {str(folder / INDEX)!r}")
    return [folder / name for name in sorted(names)]


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{path.name} must be a whole safetensors file, got {str(path)!r}: {error}")


def _without_prefix(name: str) -> str:
    return next((name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix)), name)
