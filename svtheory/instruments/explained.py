"""Explained: heads of all layers held against hypotheses, by layer, head and hypothesis (T16)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.hypotheses import Hypothesis
from svtheory.heads.read_together import SIDES
from svtheory.heads.turned_heads import NULLS
from svtheory.heads.weights import bilinear
from svtheory.instruments.beyond_chance import P_VALUES, Part, beyond_chance
from svtheory.instruments.beyond_chance import VARIABLES as CHANCE_VARIABLES
from svtheory.instruments.grades import best, grades, sentence
from svtheory.instruments.hypothesised import Factors, Reading, side_by_side
from svtheory.instruments.labels import SCORE, Labels, labelled
from svtheory.instruments.leads import TABLE, best_members, families, leads
from svtheory.instruments.leads import VARIABLES as LEAD_VARIABLES
from svtheory.instruments.modes import VARIABLES as MODE_VARIABLES
from svtheory.instruments.modes import first_modes
from svtheory.instruments.survey import PLACE, places
from svtheory.progress import track

VARIABLES: Labels = {
    **LEAD_VARIABLES,
    **MODE_VARIABLES,
    **CHANCE_VARIABLES,
    "weight_cosine": "cosine of predicted and measured Omega, directions included that no data exercises",
    "functional_cosine": "correlation of predicted and measured logits over independent draws; chance is `null`",
    "time": ("fitted training time", "learning rate x steps x mean eigenvalues of both input moments"),
    "time_upper_bound": "whether any shorter time would do as well",
    "time_lower_bound": "whether any longer time would do as well",
    "permuted": "functional cosine of a permuted template",
    "contrast_cosine": "functional cosine with what is left of the head in contrastive covariance's directions",
    "contrast_chance": "the same of as many random directions, mean",
    "contrast_chance_highest": "the same of as many random directions, 97.5th percentile",
    "contrast_size": ("directions that contrastive covariance finds", "directions"),
    "unvisited": "share of the square of the weights in directions that no sample exercises",
    "singular_value": ("singular value of Omega", SCORE),
    "centre_query": "whether the head's queries are centred, as it has a query bias that is not zero",
    "asked": "whether the hypothesis can be asked of the head: not, where centring leaves nothing of it",
    "grade": "explained, partly or unexplained",
    "verdict": "what is said of the head",
    "hypothesis": "what is asked of the head",
}


@dataclass(frozen=True)
class Question:
    """Heads of a bundle, what they read at queries and keys by layer, and what is asked of them.

    centre  whether a head's queries are centred, (layers, heads)
    """

    bundle: HeadBundle
    hypotheses: Sequence[Hypothesis]
    layers: dict[int, tuple[np.ndarray, np.ndarray]]
    heads: Sequence[int]
    centre: np.ndarray

    def __post_init__(self):
        names = [hypothesis.name for hypothesis in self.hypotheses]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"hypotheses must have names of their own, got {twice[0]!r} twice")
        D = self.bundle.W_Q.shape[-1]
        for side, inputs in zip(SIDES, next(iter(self.layers.values())), strict=True):
            if inputs.ndim != 2 or inputs.shape[1] != D or len(inputs) < 2:
                raise InputError(f"{side}_inputs must be at least 2 rows of {D}, as heads read, got {inputs.shape}")
            for hypothesis in self.hypotheses:
                features = getattr(hypothesis, f"{side}_features")
                if len(features) != len(inputs):
                    raise InputError(
                        f"{side}_features of {hypothesis.name!r} must have a row for each of {len(inputs)} samples, "
                        f"got {len(features)}"
                    )

    def parts(self) -> Iterator[Part]:
        """The heads of each layer, those that centre their queries apart from those that do not.

        Heads with a query-key norm each by itself: it rescales what it reads (T23).
        """
        b, given = self.bundle, side_by_side(self.hypotheses, self.bundle.W_Q.dtype)
        normed = b.scoring.query_key_norm != "none"
        for i, (layer, inputs) in enumerate(self.layers.items()):
            for j, at in enumerate(self.heads if normed else ()):
                plain, r, s = bilinear(b.head(layer, at), *map(jnp.asarray, inputs))
                factors = Factors.of(plain.W_Q[None], plain.W_K[None], None, None)
                yield Part(i, [j], Reading.of(factors, (r, s), given, bool(self.centre[layer, at])))
            for centred in () if normed else (False, True):
                at = [j for j, head in enumerate(self.heads) if bool(self.centre[layer, head]) == centred]
                if at:
                    own = layer, [self.heads[j] for j in at]
                    biases = (None if x is None else x[own] for x in (b.b_Q, b.b_K))
                    factors = Factors.of(b.W_Q[own], b.W_K[own], *biases)
                    yield Part(i, at, Reading.of(factors, inputs, given, centred))


def explained(question: Question, key: Array, draws: int, resamples: int) -> xr.Dataset:
    """All that is read of every head: see `svtheory.instruments.explain`."""
    of_random, of_permuted, of_samples, of_subspaces = jax.random.split(key, 4)
    parts, records = [], []
    shape = len(question.layers), len(question.heads), len(question.hypotheses)
    for number, part in enumerate(track(question.parts(), "explain: layers", shape[0])):
        keys = [jax.random.fold_in(key, number) for key in (of_permuted, of_samples, of_subspaces)]
        records.append(_record(part.reading, keys, draws, resamples))
        parts.append(part)
    data = {name: _placed([record[name] for record in records], parts, shape) for name in records[0]}
    coords: dict[str, Any] = {"layer": list(question.layers), "head": list(question.heads)}
    coords |= {"hypothesis": [h.name for h in question.hypotheses], "random_head": list(NULLS)}
    columns = {name: (_axes(name), x) for name, x in data.items() if name not in ("members", "again")}
    results = xr.Dataset(columns | {"centre_query": (PLACE, _centred(question))}, coords)
    results = results.assign(best_members(question.hypotheses, data["members"], data["again"]))
    again = np.stack([x.max(axis=-1) for x in families(question.hypotheses, data["again"])], axis=-1)
    results = results.assign(leads(results, again))
    results = results.assign(beyond_chance(parts, shape, of_random, draws)).assign(asked=(TABLE, _asked(question)))
    results = results.assign({name: results[name].where(results.asked) for name in P_VALUES})
    results = results.assign(grade=grades(results))
    results = results.merge(first_modes(parts, results))
    verdicts = [sentence(here) for here in places(best(results), *PLACE)]
    results = results.assign(verdict=(PLACE, np.reshape(verdicts, shape[:2])))
    return labelled(results, VARIABLES)


def _record(reading: Reading, keys: Sequence[Array], draws: int, resamples: int) -> dict[str, np.ndarray]:
    """What is read of heads that are read together, arrays with a first axis of heads."""
    held = reading.held
    if not np.isfinite(held.values).all():
        raise InputError("W_Q and W_K must be of a size whose products float32 holds, got one too large")
    fit, at = held.fit, held.best

    def own(x):
        return jnp.take_along_axis(x, at, axis=1)

    of_permuted, of_samples, of_subspaces = keys
    contrast = reading.contrasts(of_subspaces)
    found = {
        "functional_cosine": own(fit.members),
        "weight_cosine": own(fit.weight_cosine),
        "time": own(fit.time),
        "time_upper_bound": own(fit.bound[..., 0]),
        "time_lower_bound": own(fit.bound[..., 1]),
        "permuted": reading.permuted(of_permuted, draws),
        **{f"contrast_{name}": x for name, x in contrast.items()},
        "unvisited": held.unvisited,
        "singular_value": held.values,
        "members": fit.members,
        "again": reading.resampled(of_samples, resamples),
    }
    return {name: np.asarray(x) for name, x in found.items()}


def _placed(arrays: list[np.ndarray], parts: list[Part], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of parts (h, ...) at their places, (layers, heads, ...)."""
    whole = np.empty((*shape[:2], *arrays[0].shape[1:]), arrays[0].dtype)
    for part, array in zip(parts, arrays, strict=True):
        whole[part.layer, part.heads] = array
    return whole


def _axes(name: str) -> tuple[str, ...]:
    if name in ("unvisited", "singular_value"):
        return (*PLACE, *(("pair",) if name == "singular_value" else ()))
    return (*TABLE, "permutation") if name == "permuted" else TABLE


def _asked(question: Question) -> np.ndarray:
    """Of which head what can be asked: keys are centred, and queries of some, where what is constant says nothing."""
    query, key = (
        np.array([np.ptp(getattr(hypothesis, f"{side}_features"), axis=0).any() for hypothesis in question.hypotheses])
        for side in SIDES
    )
    return key & (query | ~_centred(question)[..., None])


def _centred(question: Question) -> np.ndarray:
    return question.centre[np.ix_(list(question.layers), list(question.heads))]
