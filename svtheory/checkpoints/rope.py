"""Rotary frequencies as a config.json asks for them: plain, stretched linearly, or by Llama 3's rule."""

import math

import numpy as np

from svtheory.checkpoints.settings import Config, number
from svtheory.checks import InputError, one_of

RULES = ("default", "linear", "llama3")


def rotary_frequencies(config: Config, rows: int, base: float) -> tuple[float, ...]:
    """`theta_h = base^{-2h/rows}` of the `rows/2` rotated planes, rescaled by the rule that the config names.

    Rounded to float32, in which models are trained. "linear" divides all by `factor`; "llama3" those whose wavelength
    exceeds the original context over `low_freq_factor`, and goes over to none smoothly. The rule stands under
    rope_parameters, in older files rope_scaling. Raises InputError for any other rule.
    """
    if rows % 2 or not rows:
        raise InputError(f"config.json must rotate an even number of rows of a head, got {rows}")
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rule = one_of("rope_type of config.json", given.get("rope_type", given.get("type", "default")), RULES)
    theta = base ** (-np.arange(0, rows, 2) / rows)
    if rule == "linear":
        theta = theta / number(given, "factor")
    if rule == "llama3":
        theta = _llama3(theta, given)
    return tuple(theta.astype(np.float32).tolist())


def _llama3(theta: np.ndarray, given: Config) -> np.ndarray:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, context = (number(given, name) for name in names)
    if low >= high:
        raise InputError(f"low_freq_factor of config.json must be below high_freq_factor, got {low} and {high}")
    turns = context * theta / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * theta + (1 - kept) * theta / factor
