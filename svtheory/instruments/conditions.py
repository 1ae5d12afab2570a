"""Will this head's singular vectors be features, and why (not)? The conditions of the theory, for your arrays.

FILE is an .npz (nothing pickled) or .safetensors file with

    query_features  X, features as columns, D x N
    key_features    Y, D x M
    target          T, logits asked for, N x M

and, for the laws of the activations (needed for softmax; without them the second moment is the identity), either
query_probabilities (N) and key_probabilities (M), for features present with that probability and then uniform on
(0, 1), or moments: query_mean (N), query_covariance (N x N), key_mean and key_covariance. Without FILE an example is
read: 20 features in 10 dimensions, present with probability 0.2, one pair matched.

Each condition has a margin, 0 where it holds exactly, and a promise: the least |cos| of feature and singular vector,
or of what is read back from it (unwhitened, T15; balanced, T22), that it guarantees for pairs that do not mix with
others. The figure shows the cosines that theory predicts in each reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr
from matplotlib.figure import Figure

from svtheory.checks import InputError
from svtheory.criteria.criteria import conditions
from svtheory.criteria.verdicts import Conditions
from svtheory.instruments.arrays import read_arrays
from svtheory.instruments.survey import places
from svtheory.laws import BernoulliUniform, Gaussian, Law
from svtheory.reports.plotting import COLOURS, chance_line, panels_or
from svtheory.scenarios import Scenario
from svtheory.spectra.alignments import chance_alignment
from svtheory.spectra.readings import READINGS
from svtheory.targets import single_pair

REQUIRED = ("query_features", "key_features", "target")
OF_A_LAW = ("probabilities", "mean", "covariance")
LABELS = 30  # pairs named below the figure, at most
KNOWN = (*REQUIRED, *(f"{side}_{name}" for side in ("query", "key") for name in OF_A_LAW))


@dataclass(frozen=True)
class File:
    """The file of a scenario."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[FILE]")]] = ""
    """Arrays, .npz or .safetensors; without it an example."""

    @property
    def label(self) -> str:
        """What the file is called."""
        return Path(self.file).stem if self.file else "example"


@dataclass(frozen=True)
class Settings:
    """The head beside its features and target."""

    objective: Literal["square", "softmax"] = "square"
    """What the head is trained with."""
    head_dim: int | None = None
    """Head dimension H; none means no less than D."""
    weight_decay: float = 0.0
    """Weight decay of the factors, part of the loss."""
    n_keys: int = 8
    """Keys m of a softmax."""
    query_bias: bool = False
    """Whether the head has a query bias, or another free key-only term."""
    seed: int = 0
    """Seed of the example."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point numbers of the run."""


DEFAULTS = Settings()


def requested(source: File, settings: Settings) -> xr.Dataset:
    """What the command asks for; it prints the verdict."""
    with jax.enable_x64(settings.dtype == "float64"):
        arrays = loaded(Path(source.file)) if source.file else example(settings.seed)
        results = survey(scenario(settings, arrays))
    print(results.attrs["told"])
    return results


def survey(scenario: Scenario) -> xr.Dataset:
    """The conditions of a scenario and what theory predicts for each pair."""
    return dataset(conditions(scenario))


def loaded(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a file; raises InputError for anything that is no such file, lacks an array or holds others."""
    arrays = read_arrays(path, REQUIRED)
    X, Y, T = (arrays[name] for name in REQUIRED)
    if X.ndim == Y.ndim == 2 and T.shape == (len(X), len(Y)) != (X.shape[1], Y.shape[1]):
        raise InputError(
            f"FILE must hold features as columns, got query_features {X.shape} and key_features {Y.shape}, which look "
            f"transposed beside target {T.shape}"
        )
    if unknown := sorted(set(arrays) - set(KNOWN)):
        raise InputError(f"FILE may hold {', '.join(KNOWN)}, got also {', '.join(unknown)}")
    return arrays


def example(seed: int) -> Mapping[str, np.ndarray]:
    """Twenty random features of unit length in ten dimensions, the first matched with the second."""
    X = np.random.default_rng(seed).normal(size=(10, 20))
    X /= np.linalg.norm(X, axis=0)
    p = np.full(20, 0.2)
    pair = np.asarray(single_pair(20, 20, 0, 1))
    laws = {"query_probabilities": p, "key_probabilities": p}
    return {"query_features": X, "key_features": X, "target": pair, **laws}


def scenario(settings: Settings, arrays: Mapping[str, np.ndarray]) -> Scenario:
    """The Scenario that the arrays and options describe, in the run's precision."""
    given = {name: jnp.asarray(array, settings.dtype) for name, array in arrays.items()}
    laws = [law(given, side) for side in ("query", "key")]
    if settings.objective == "softmax" and None in laws:
        raise InputError(
            "FILE must hold the laws of query and key activations for --objective softmax, got one without"
        )
    options = ("objective", "head_dim", "weight_decay", "n_keys", "query_bias")
    return Scenario(*(given[name] for name in REQUIRED), *laws, **{name: getattr(settings, name) for name in options})


def law(given: Mapping[str, jax.Array], side: str) -> Law | None:
    """The law of one side: from probabilities, from mean and covariance, or none."""
    probabilities, mean, covariance = (given.get(f"{side}_{name}") for name in OF_A_LAW)
    if probabilities is not None and (mean is not None or covariance is not None):
        raise InputError(f"FILE must hold {side}_probabilities or {side}_mean and {side}_covariance, got both")
    if probabilities is not None:
        return BernoulliUniform(probabilities, given[f"{side}_features"].shape[1])
    if (mean is None) != (covariance is None):
        raise InputError(f"FILE must hold {side}_mean and {side}_covariance together, got one of them")
    return None if mean is None or covariance is None else Gaussian(mean, covariance)


def dataset(found: Conditions) -> xr.Dataset:
    """The table of conditions, and what theory predicts for each pair."""
    rows, pairs = found.table(), {name: np.asarray(x) for name, x in found.pairs._asdict().items()}
    i, j = np.nonzero(np.isfinite(pairs["value"]))
    kept = ("margin", "promise", "theorem", "side", "reading")
    columns = {name: ("condition", [row[name] for row in rows]) for name in kept}
    read = {"cosine_query": "query", "cosine_key": "key", "singular_value": "value", "gap": "gap"}
    at_end = {name: ("pair", pairs[field][i, j]) for name, field in read.items()}
    for name in READINGS[1:]:
        of_reading = found.readings[name]
        for side in ("query", "key"):
            at_end[f"cosine_{side}_{name}"] = "pair", np.asarray(getattr(of_reading, side))[i, j]
    features = {"query_feature": ("pair", i), "key_feature": ("pair", j)}
    told = {
        "verdict": found.verdict(),
        "read_back": found.read_back(),
        "chance_cosine": chance_alignment(found.dim) if found.dim > 1 else 1.0,  # in one dimension
        "told": str(found).partition("\n\n")[0],
    }
    named = {"condition": [row["condition"] for row in rows], **features}
    return xr.Dataset({**columns, **at_end}, named, told)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a condition."""
    kept = ("margin", "promise", "theorem", "side", "reading")
    return [
        {"condition": str(here.condition.item())} | {name: here[name].item() for name in kept}
        for here in places(results, "condition")
    ]


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures: the verdict, the lowest cosines, and how many conditions hold."""
    columns = [f"{side}{name}" for name in ("", *(f"_{x}" for x in READINGS[1:])) for side in ("query", "key")]
    lowest = {f"cosine_{column}_lowest": results[f"cosine_{column}"].values.min(initial=1.0) for column in columns}
    return {
        **{name: results.attrs[name] for name in ("verdict", "read_back")},
        "pairs": results.sizes["pair"],
        **lowest,
        "chance_cosine": results.attrs["chance_cosine"],
        "conditions": results.sizes["condition"],
        "conditions_that_hold": int((results.margin == 0).sum()),
    }


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The predicted cosines of each pair, on `axes` where they are given."""
    x = np.arange(results.sizes["pair"])
    drawn, (ax,) = panels_or(axes, width=max(6.0, 0.35 * min(x.size, LABELS)))
    for side, label, colour in (("query", "|cos(u, x)|", COLOURS[0]), ("key", "|cos(v, y)|", COLOURS[1])):
        ax.plot(x, results[f"cosine_{side}"], "_", color=colour, markersize=14, markeredgewidth=2.5, label=label)
    for name, shape, colour in zip(READINGS[1:], "^o", COLOURS[2:], strict=False):
        lesser = np.minimum(results[f"cosine_query_{name}"], results[f"cosine_key_{name}"])
        ax.plot(x, lesser, shape, color=colour, markersize=5, label=f"{name}, lesser side")
    chance_line(ax, results.attrs["chance_cosine"])
    names = [f"x_{int(i)} → y_{int(j)}" for i, j in zip(results.query_feature, results.key_feature, strict=True)]
    ax.set(ylim=(0, 1.05), ylabel="predicted cosine, fully trained")
    some = slice(None, None, max(1, -(-x.size // LABELS)))
    ax.set_xticks(x[some], names[some], rotation=45, ha="right")
    drawn.legend(loc="outside upper center", ncols=3)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return "Cosines of singular vectors with features that theory predicts for each matched pair, fully trained."
