"""Sizes: options that several experiments have."""

from dataclasses import dataclass
from typing import Annotated, Literal

from svtheory.checks import whole
from svtheory.reports.options import Options, at_least


@dataclass(frozen=True)
class Precise(Options):
    """Options of an experiment in float64."""

    seed: int = 0
    """Random seed."""
    dtype: Literal["float32", "float64"] = "float64"
    """Precision of the whole run."""


@dataclass(frozen=True)
class Frames(Precise):
    """Options of an experiment on frames of features."""

    ARRAYS = ("n_features n_features", "dim n_features", "dim dim")

    dim: Annotated[int, at_least(2)] = 10
    """Dimension D."""
    n_features: int = 20
    """Features N, at least D."""

    def __post_init__(self):
        super().__post_init__()
        whole("--n-features", self.n_features, self.dim)
