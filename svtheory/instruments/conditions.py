"""Will this head's singular vectors be features, and why (not)? The conditions of the theory, for a head or for arrays.

SOURCE is a bundle, or a model's folder with --text: then a hypothesis says what features a head's queries and keys have
and what it asks between them (as `explain` makes them of tokens and positions), and the scenario is made of these and
of the moments of what the head reads: directions in which the features show, by least squares, and what no feature
tells beside them. Or SOURCE is an .npz (nothing pickled) or .safetensors file with

    query_features  X, features as columns, D x N
    key_features    Y, D x M
    target          T, logits asked for, N x M

and, for the laws of the activations (needed for softmax; without them the second moment is the identity), either
query_probabilities (N) and key_probabilities (M), for features present with that probability and then uniform on
(0, 1), or moments: query_mean (N), query_covariance (N x N), key_mean and key_covariance. Without SOURCE an example is
read: 20 features in 10 dimensions, present with probability 0.2, one pair matched.

Each condition has a margin, 0 where it holds exactly, and a promise: the least |cos| of feature and singular vector,
or of what is read back from it (unwhitened, T15; balanced, T22), that it guarantees for pairs that do not mix with
others. The figure shows the cosines that theory predicts in each reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from svtheory.checks import InputError, index, one_of
from svtheory.criteria.criteria import conditions
from svtheory.criteria.verdicts import Conditions
from svtheory.heads.bundles import HeadBundle, bundle_file
from svtheory.heads.hypotheses import Hypothesis
from svtheory.instruments.arrays import read_arrays
from svtheory.instruments.asking import Asking, chosen_layer, of_tokens, read_as, samples_of
from svtheory.instruments.head_scenarios import scenario_of_head
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.sources import Source
from svtheory.instruments.survey import places
from svtheory.laws import BernoulliUniform, Gaussian, Law
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, chance_line, panels_or
from svtheory.scenarios import Scenario
from svtheory.spectra.readings import READINGS
from svtheory.targets import single_pair

REQUIRED = ("query_features", "key_features", "target")
OF_A_LAW = ("probabilities", "mean", "covariance")
LABELS = 30  # pairs named below the figure, at most
KNOWN = (*REQUIRED, *(f"{side}_{name}" for side in ("query", "key") for name in OF_A_LAW))
COLUMNS = {
    "margin": "How far the condition is from holding, 0 where it holds exactly.",
    "promise": "The least cosine of feature and vector that it guarantees for pairs that do not mix with others.",
    "theorem": "The theorem of this project that says so.",
    "side": "Queries, keys, or both.",
    "reading": "Vectors as they are, unwhitened (T15) or balanced (T22).",
}

LOGIT = "logit of unit tokens"
VARIABLES: Labels = {
    "condition": "condition of the theory",
    "margin": "how far the condition is from holding, 0 where it holds exactly",
    "promise": "least |cos| of feature and vector that the condition guarantees",
    "theorem": "theorem of this project that says so",
    "side": "queries, keys, or both",
    "reading": "vectors as they are, unwhitened (T15) or balanced (T22)",
    "query_feature": "matched feature of queries, by its index",
    "key_feature": "matched feature of keys, by its index",
    "singular_value": ("predicted singular value of the pair, fully trained", LOGIT),
    "gap": ("its distance to the nearest other value", LOGIT),
    **{
        f"cosine_{side}{suffix}": f"predicted |cos| of the {side} feature with its {vector}, fully trained"
        for side in ("query", "key")
        for suffix, vector in (
            ("", "singular vector"),
            ("_unwhitened", "unwhitened singular vector"),
            ("_balanced", "balanced pattern"),
        )
    },
}


@dataclass(frozen=True)
class Settings(Options):
    """The head beside its features and target."""

    objective: Literal["square", "softmax"] | None = None
    """What the head is trained with; none: the square for arrays, softmax for the head of a model."""
    head_dim: int | None = None
    """Head dimension H; none means no less than D, or the head's own."""
    weight_decay: float = 0.0
    """Weight decay of the factors, part of the loss."""
    n_keys: int = 8
    """Keys m of a softmax."""
    query_bias: bool = False
    """Whether the head has a query bias, or another free key-only term; of a model's head its own counts too."""
    seed: int = 0
    """Seed of the example."""
    dtype: Literal["float32", "float64"] = "float64"
    """Floating-point numbers of the run."""


DEFAULTS = Settings()


@dataclass(frozen=True)
class Request(Asking, Settings):
    """Settings, and which head of a model is asked about, by which hypothesis; without a layer, of the last one."""

    head: int = 0
    """The head."""
    hypothesis: str | None = None
    """What the head is for; none: the first that can be asked, "same token" where tokens recur."""
    member: float | None = None
    """Member of a family of hypotheses, by its name; none: the middle one."""
    largest: Annotated[int, at_least(1)] = 24
    """Most features: the commonest tokens, the first positions."""

    @property
    def label(self) -> str:
        """What is asked about, where it is not the default."""
        asked = (self.hypothesis or "").replace(" ", "-"), "" if self.layer is None else f"{self.layer}.{self.head}"
        return "-".join(x for x in asked if x)


def requested(source: Source, settings: Request) -> xr.Dataset:
    """What the command asks for; it prints what theory predicts of each pair."""
    with jax.enable_x64(settings.dtype == "float64"):
        results = survey(asked_for(source, settings))
    if results.attrs["told"]:
        print(results.attrs["told"])
    return results


def asked_for(source: Source, settings: Request) -> Scenario:
    """The Scenario that the command asks about: the example, a file's, or that of a head."""
    if not source.source:
        return scenario(settings, example(settings.seed))
    if _is_model(source.source):
        bundle = source.bundle(reads=True)
        return of_head(bundle, replace(settings, **read_as(source.label, settings)))
    return scenario(settings, loaded(Path(source.source)))


def _is_model(name: str) -> bool:
    """Whether a source is a model's folder or a bundle, rather than a file of features and target."""
    if Path(name).is_dir():
        return True
    path = bundle_file(name)
    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="np") as file:
            return "W_Q" in file.keys()  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return False


def of_head(bundle: HeadBundle, settings: Request) -> Scenario:
    """The Scenario of a head of a bundle, by a hypothesis about its tokens; raises InputError where there is none."""
    bundle.check_bilinear()
    made = {hypothesis.name: hypothesis for hypothesis in of_tokens(bundle, settings, settings.largest)}
    if not made:
        raise InputError("hypotheses must be at least 1, got none that can be asked at these queries and keys")
    chosen = made[one_of("hypothesis", settings.hypothesis or next(iter(made)), tuple(made))]
    layer = chosen_layer(bundle, settings)
    head = index("head", settings.head, bundle.W_Q.shape[1])
    bias = settings.query_bias or bool(bundle.query_bias[layer, head])
    queries, keys = samples_of(bundle, layer, settings)
    return scenario_of_head(
        queries,
        keys,
        chosen,
        _member(chosen, settings.member),
        settings.objective or "softmax",
        bundle.W_Q.shape[2] if settings.head_dim is None else settings.head_dim,
        settings.n_keys,
        bias,
        settings.weight_decay,
        settings.dtype,
    )


def _member(hypothesis: Hypothesis, called: float | None) -> int:
    """The index of the member of a family that is called so, to 1 %."""
    members = np.asarray(hypothesis.members, float)
    if called is None:
        return len(members) // 2
    found = np.flatnonzero(np.isclose(members, called, rtol=0.01))
    if not found.size:
        names = ", ".join(f"{x:.3g}" for x in members)
        raise InputError(f"member must be one of {names}, got {called:g}")
    return int(found[0])


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
    objective = settings.objective or "square"
    if objective == "softmax" and None in laws:
        raise InputError(
            "FILE must hold the laws of query and key activations for --objective softmax, got one without"
        )
    options = {name: getattr(settings, name) for name in ("head_dim", "weight_decay", "n_keys")}
    options |= {"objective": objective, "query_bias": settings.query_bias}
    return Scenario(*(given[name] for name in REQUIRED), *laws, **options)


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
        "chance_cosine": found.chance,
        "told": _told(found, i.size),
    }
    named = {"condition": [row["condition"] for row in rows], **features}
    return labelled(xr.Dataset({**columns, **at_end}, named, told), VARIABLES)


def _told(found: Conditions, pairs: int) -> str:
    """What is predicted of the pairs, a line each; nothing where they are many."""
    return "\n".join(str(found).splitlines()[: 1 + pairs]) if pairs <= LABELS else ""


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a condition."""
    kept = ("margin", "promise", "theorem", "side", "reading")
    return [
        {"condition": str(here.condition.item())} | {name: here[name].item() for name in kept}
        for here in places(results, "condition")
    ]


brief = rows


def answers(results: xr.Dataset) -> list[str]:
    """The verdict, and what is read back otherwise."""
    return [said for name in ("verdict", "read_back") if (said := results.attrs[name])]


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
