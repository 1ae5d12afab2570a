"""Settings: the entries of a config.json, checked one by one; an absent or null one takes the library's default."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from svtheory.checks import InputError, one_of, whole

Config = Mapping[str, Any]

# tanh and error-function forms of GELU differ by up to 5e-4
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish")


def size(config: Config, name: str, default: int | None = None) -> int:
    """A positive whole number."""
    return whole(f"{name} of config.json", _entry(config, name, default), 1)


def number(config: Config, name: str, default: float | None = None) -> float:
    """A positive finite number."""
    x = _entry(config, name, default)
    if isinstance(x, bool) or not isinstance(x, int | float) or not 0 < x < np.inf:
        raise InputError(f"{name} of config.json must be a positive number, got {x!r}")
    return float(x)


def flag(config: Config, name: str, default: bool) -> bool:
    """True or false."""
    x = _entry(config, name, default)
    if not isinstance(x, bool):
        raise InputError(f"{name} of config.json must be true or false, got {x!r}")
    return x


def activation(config: Config, name: str, default: str) -> str:
    """An activation function that is known here."""
    return one_of(f"{name} of config.json", _entry(config, name, default), ACTIVATIONS)


def quotient(config: Config, whole_name: str, part_name: str) -> int:
    """The first setting over the second, which must divide it."""
    whole_size, part = size(config, whole_name), size(config, part_name)
    if whole_size % part:
        raise InputError(f"{whole_name} of config.json must be a multiple of {part_name}, got {whole_size} and {part}")
    return whole_size // part


def _entry(config: Config, name: str, default: Any) -> Any:
    value = config.get(name)
    return default if value is None else value
