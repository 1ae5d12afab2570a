"""Rotary frequencies as a config.json, old or new, asks for them: plain, stretched linearly, or by Llama 3's rule."""

import math

import numpy as np

from svtheory.checkpoints.descriptions import FULL, KINDS, Description
from svtheory.checkpoints.settings import Config, entry, number, section, size
from svtheory.checks import InputError, one_of

SECTIONS = ("rope_scaling", "rope_parameters")
ORIGINAL = "original_max_position_embeddings"


def frequencies_by_kind(config: Config, d: Description, d_head: int) -> dict[str, tuple[float, ...]]:
    """`theta_h = base^{-2h/rows}` of the `rows/2` rotated planes of a head, by kind of layer; none without a base.

    The first rows of a head are rotated, as many as the share says. Rounded to float32, in which models are trained,
    and rescaled by the rule that the config names: "linear" divides all by `factor`; "llama3" those whose wavelength
    exceeds the original context over `low_freq_factor`, and goes over to none smoothly; "dynamic" none within the
    model's context. Raises InputError for any other rule, and for rows that make no planes.
    """
    if not d.bases:
        return dict.fromkeys(KINDS, ())
    return {kind: _frequencies(_of_kind(config, d, kind), d, d_head, base) for kind, base in _bases(d)}


def context_limit(config: Config, d: Description) -> int | None:
    """The most positions at which frequencies do not depend on the length, or None: "dynamic" ones do beyond."""
    rules = [_rule(_section(_of_kind(config, d, kind)), d) for kind, _ in _bases(d)]
    return size(config, "max_position_embeddings") if "dynamic" in rules else None


def _bases(d: Description) -> list[tuple[str, str]]:
    """Kinds of layers, each with the setting of its base."""
    return list(zip(KINDS, d.bases * (len(KINDS) // len(d.bases)), strict=True))


def _of_kind(config: Config, d: Description, kind: str) -> Config:
    """The config as it is for layers of one kind, where kinds differ: the section that is theirs is its section.

    rope_parameters has one for each kind; rope_scaling, of older files, is about layers that attend to all.
    """
    if len(d.bases) == 1:
        return config
    by_kind = section(config, "rope_parameters")
    if strange := [name for name in by_kind if name not in KINDS]:
        kinds = " and ".join(map(repr, KINDS))
        raise InputError(f"rope_parameters of config.json must be by layer type, {kinds}, got {strange[0]!r}")
    older = section(config, "rope_scaling") if kind == FULL else {}
    plain = {name: value for name, value in config.items() if name not in (*SECTIONS, ORIGINAL)}
    return plain | {"rope_parameters": {**section(by_kind, kind), **older}}


def _section(config: Config) -> Config:
    """What config.json says of rotary positions: rope_scaling, else rope_parameters, an empty one being none.

    Base and rotated share stand in it in newer files, and win over those beside it. Raises InputError for one that is
    no object or that differs between layers.
    """
    given = section(config, *SECTIONS)
    if nested := [name for name, value in given.items() if isinstance(value, dict)]:
        raise InputError(f"rotary settings of config.json must be one for all layers, got some for {nested[0]!r}")
    return given


def _rule(given: Config, d: Description) -> str:
    return one_of("rope_type of config.json", entry(given, "rope_type", entry(given, "type", "default")), d.rules)


def _frequencies(config: Config, d: Description, d_head: int, base_name: str) -> tuple[float, ...]:
    """The frequencies of one kind of layer."""
    given = _section(config)
    rule, base = _rule(given, d), number(given, "rope_theta", number(config, base_name))
    name = "partial_rotary_factor"
    share = number(given, name, number(config, d.share or name, 1.0))
    if d.share is None and share != 1 and rule != "default":  # by default all rows turn, whatever the share
        raise InputError(f"{name} of config.json must be 1 where frequencies are rescaled, got {share}")
    rows = d_head if d.share is None else int(d_head * share)
    if rows % 2 or not 0 < rows <= d_head:
        raise InputError(f"config.json must rotate an even number of rows of a head, got {rows} of {d_head}")
    theta = base ** (-np.arange(0, rows, 2) / rows)
    if rule in ("linear", "dynamic"):
        factor = number(given, "factor")
        theta = theta / factor if rule == "linear" else theta
    if rule == "llama3":
        theta = _llama3(theta, given, _original_context(config, given))
    return tuple(theta.astype(np.float32).tolist())


def _original_context(config: Config, given: Config) -> float:
    """The context before it was stretched: stated beside the section, in it, or the model's own."""
    return number(config, ORIGINAL, number(given, ORIGINAL, number(config, "max_position_embeddings")))


def _llama3(theta: np.ndarray, given: Config, context: float) -> np.ndarray:
    factor, low, high = (number(given, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise InputError(f"low_freq_factor of config.json must be below high_freq_factor, got {low} and {high}")
    turns = context * theta / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * theta + (1 - kept) * theta / factor
