"""Tensors: those of the safetensors files of one folder, each read when it is asked for, and only its part."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from svtheory.checkpoints.architecture import Place
from svtheory.checkpoints.settings import Config
from svtheory.checkpoints.texts import read_text
from svtheory.checks import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# present where the folder also holds an unembedding or a classifier; or images are read too
PREFIXES = ("transformer.", "gpt_neox.", "model.language_model.", "language_model.model.", "language_model.", "model.")
ADAPTER = "adapter_config.json"
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # from coarse to fine


class Tensors:
    """Tensors of a folder by name, without the model's prefix; opening reads the files' headers only.

    Raises InputError for a folder without safetensors files, an index that cannot be read, a missing or broken file,
    and a tensor that is there twice.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder = folder
        self._found: dict[str, tuple[Path, str, tuple[int, ...], str]] = {}
        for path in _files(folder, config.get("transformers_weights")):
            for name, (shape, dtype) in _header(path).items():
                plain = _plain(name)
                if plain in self._found:
                    first, its_name, *_ = self._found[plain]
                    both = f"{its_name} in {first.name} and {name} in {path.name}"
                    raise InputError(f"the checkpoint must hold {plain} once, got {both}")
                self._found[plain] = path, name, shape, dtype

    def __contains__(self, place: Place) -> bool:
        return place.name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def check(self, place: Place) -> None:
        """Raise InputError unless the tensor of `place` is there, with its shape, in floating point."""
        if place.name not in self._found:
            raise InputError(f"the checkpoint must hold {place.name}, got {str(self.folder)!r} without it")
        *_, shape, dtype = self._found[place.name]
        if shape != place.shape:
            raise InputError(f"{place.name} must have shape {place.shape}, as config.json says, got {shape}")
        if dtype not in FLOATS:
            raise InputError(f"{place.name} must hold floating-point numbers, got {dtype}")

    def dtype(self, place: Place) -> str:
        """The name of the precision in which the weight at `place` is stored."""
        return FLOATS[self._found[place.name][-1]]

    def read(self, place: Place) -> np.ndarray:
        """The weight at `place`, (out, in), in float32, or float64 where JAX has x64 on.

        Raises InputError where it is not finite or cannot be read.
        """
        path, name, *_ = self._found[place.name]
        rows = slice(place.start, place.stop)
        try:
            with safe_open(path, framework="np") as file:
                tensor = file.get_slice(name)
                part = tensor[:, rows].T if place.transposed else tensor[rows]
        except (SafetensorError, OSError) as error:
            raise _broken(path, error) from error
        with np.errstate(over="ignore"):  # what overflows is reported below
            part = np.ascontiguousarray(part, jnp.result_type(float))
        if not np.isfinite(part).all():
            raise InputError(f"{place.name} must be finite, got {int((~np.isfinite(part)).sum())} entries that are not")
        return part


def refuse_adapter(folder: Path) -> None:
    """Raise InputError for a folder with an adapter, alone or beside a model that it changes."""
    if (folder / ADAPTER).is_file():
        raise InputError(f"the checkpoint must be a merged model, got {str(folder)!r} with {ADAPTER} in it")


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; raises InputError for a file that is missing or holds none."""
    try:
        content = json.loads(read_text(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} must be a JSON file in the checkpoint's folder, got {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} must hold a JSON object, got {type(content).__name__}")
    return content


def _files(folder: Path, named: Any) -> list[Path]:
    """The files of the weights: that which config.json names, else the single one, else those of the index."""
    if named is not None and not _in_folder(named):
        raise InputError(f"transformers_weights of config.json must be a file of the folder, got {named!r}")
    wanted = (SINGLE, INDEX) if named is None else (named,)
    found = next((name for name in wanted if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"the checkpoint must be a folder with {' or '.join(wanted)}, got {str(folder)!r}")
    if not found.endswith(".json"):
        return [folder / found]
    shards = read_json(folder / found).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(map(_in_folder, names)):
        raise InputError(f"weight_map of {found} must map tensors to files of the folder, got {str(folder / found)!r}")
    return [folder / name for name in sorted(set(names))]


def _in_folder(name: Any) -> bool:
    """Whether it names a file of the folder itself, never a path."""
    return isinstance(name, str) and name != "" and name.isprintable() and Path(name).name == name


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"{path.name} must be a whole safetensors file, got {str(path)!r}: {error}")


def _plain(name: str) -> str:
    """A tensor's name without the model's prefix; the unembedding is lm_head in all of them."""
    name = next((name[len(prefix) :] for prefix in PREFIXES if name.startswith(prefix)), name)
    return name.replace("embed_out.", "lm_head.", 1) if name.startswith("embed_out.") else name
