"""Rotary frequencies as a config.json, old or new, asks for them: plain, stretched linearly, or by Llama 3's rule."""

import math

import numpy as np

from svtheory.checkpoints.settings import Config, entry, number, section
from svtheory.checks import InputError, one_of

RULES = ("default", "linear", "llama3")


def rotary_section(config: Config) -> Config:
    """What config.json says of rotary positions: rope_scaling, else rope_parameters, an empty one being none.

    Base and rotated share stand in it in newer files, and win over those beside it. Raises InputError for one that is
    no object or that differs between layers.
    """
    given = section(config, "rope_scaling", "rope_parameters")
    if nested := [name for name, value in given.items() if isinstance(value, dict)]:
        raise InputError(f"rotary settings of config.json must be one for all layers, got some for {nested[0]!r}")
    return given


def rotary_rule(config: Config) -> str:
    """The name of the rule by which frequencies are rescaled; raises InputError for one that is not known here."""
    given = rotary_section(config)
    return one_of("rope_type of config.json", entry(given, "rope_type", entry(given, "type", "default")), RULES)


def rotary_frequencies(config: Config, d_head: int, share: float, base: float) -> tuple[float, ...]:
    """`theta_h = base^{-2h/rows}` of the `rows/2` rotated planes, rescaled by the rule that the config names.

    The first `share` of the rows of a head are rotated. Rounded to float32, in which models are trained. "linear"
    divides all by `factor`; "llama3" those whose wavelength exceeds the original context over `low_freq_factor`, and
    goes over to none smoothly. Raises InputError for any other rule, and for rows that make no planes.
    """
    rows = int(d_head * share)
    if rows % 2 or not 0 < rows <= d_head:
        raise InputError(f"config.json must rotate an even number of rows of a head, got {rows} of {d_head}")
    given, rule = rotary_section(config), rotary_rule(config)
    theta = base ** (-np.arange(0, rows, 2) / rows)
    if rule == "linear":
        theta = theta / number(given, "factor")
    if rule == "llama3":
        theta = _llama3(theta, given, _original_context(config, given))
    return tuple(theta.astype(np.float32).tolist())


def _original_context(config: Config, given: Config) -> float:
    """The context before it was stretched: stated beside the section, in it, or the model's own."""
    name = "original_max_position_embeddings"
    return number(config, name, number(given, name, number(config, "max_position_embeddings", 2048)))


def _llama3(theta: np.ndarray, given: Config, context: float) -> np.ndarray:
    factor, low, high = (number(given, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise InputError(f"low_freq_factor of config.json must be below high_freq_factor, got {low} and {high}")
    turns = context * theta / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * theta + (1 - kept) * theta / factor
