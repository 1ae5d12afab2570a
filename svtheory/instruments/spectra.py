"""Spectra of all heads, raw and as their data see them, with gaps, blocks and the alignment that tokens allow.

For every head of a bundle (safetensors: W_Q, W_K, perhaps what they read) the singular values of Omega = W_Q^T W_K and,
where inputs are given, those of its balanced form A^{1/2} Omega B^{1/2} (T22): the standard deviations of each mode's
part of a score, with a pattern, what moves the mode, and a probe, what the head computes, on either side; raw, both are
the singular vector. How many values a head effectively has stands beside factors of independent Gaussian entries, read
alike. A vector can be named if its gap is above the rounding D eps sigma_1 of the stored matrix (T14); values closer
than 0.001 sigma_1 form a block, of which only the subspace is known. A head whose largest possible score, sigma_1 times
the largest input norms (1 where no inputs are given) over the score divisor, is below float32's epsilon is numerically
zero and has no directions. Rotary heads are read at offset 0. Of heads that normalise their queries and keys (T23) the
gains are in Omega, and the tokens are those that each rescales for itself: there are no moments of a layer, bounds or
Gaussian factors to read balanced.

A and B are the moments of each layer's tokens: the covariance on the key side and for queries with a bias that is
not zero, else the second moment (T6); balanced, the latter too for keys without a bias that rotary positions turn.
Their condition number kappa, on their range (singular values of the tokens above min(D, tokens) eps of the largest),
bounds the cosine of the leading singular vector of a single matched pair with E[r f_i], the feature itself where
activations are uncorrelated and centred, by 2 sqrt(kappa)/(1 + kappa) after training to the end, and by more after
shorter training (kappa_t of T17: gradient flow on Omega from zero, small logits). A bound below chance, the mean |cos|
of random directions, promises nothing: table and summary say so. Time is counted in units of 1/(L_r L_s), the time
constant of the fastest mode. Standard errors are those of a bootstrap over sequences, within
the 16 longest and 16 shortest principal axes.

Of models so large that the vectors of all heads would take more than 1 GiB, some 1.5 billion parameters, all else is
kept and they are not: svtheory.spectrum(head.W_Q, head.W_K) has those of a head.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K, tokens = (np.random.default_rng(0).normal(size=s) for s in ((1, 2, 4, 8), (1, 2, 4, 8), (1, 9, 5, 8)))
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=tokens))
>>> dict(found.key_pattern.sizes)
{'layer': 1, 'head': 2, 'reading': 2, 'dimension': 8, 'pair': 4}
>>> bool((found.effective_rank > 1).all())
True
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.read_together import READINGS
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.weights import Head
from svtheory.instruments.gaussian_heads import gaussian_effective_ranks, gaussian_values
from svtheory.instruments.labels import SCORE, Labels, labelled
from svtheory.instruments.moments import Moments, largest_norm, layer_moments, seen_by, seen_rescaled
from svtheory.instruments.sources import Source, check_values_held
from svtheory.instruments.spectra_figure import caption, figure
from svtheory.instruments.spectra_page import COLUMNS, answers, brief, rows, summary
from svtheory.instruments.survey import EPSILON, PLACE, over_heads, rounding
from svtheory.instruments.threads import in_threads
from svtheory.instruments.token_bounds import VARIABLES as BOUND_VARIABLES
from svtheory.instruments.token_bounds import token_bounds
from svtheory.reports.options import Options, at_least
from svtheory.spectra.balanced import BalancedSpectrum, balanced
from svtheory.spectra.blocks import block_labels, firsts
from svtheory.spectra.spectra import effective_rank, spectrum

__all__ = [
    "COLUMNS",
    "DEFAULTS",
    "VARIABLES",
    "Settings",
    "answers",
    "brief",
    "caption",
    "figure",
    "requested",
    "rows",
    "summary",
    "survey",
]
VECTORS = ("query_pattern", "query_probe", "key_pattern", "key_probe")
HELD = 2**30  # bytes of all vectors, at most
LAYER_DRAWS = 10  # Gaussian heads that a layer's tokens see, at most
PATTERN = "what in a {} token moves the mode; raw, the singular vector"
PROBE = "what the head computes of a {} token; raw, the singular vector"
VARIABLES: Labels = {
    **BOUND_VARIABLES,
    "query_pattern": PATTERN.format("query"),
    "query_probe": PROBE.format("query"),
    "key_pattern": PATTERN.format("key"),
    "key_probe": PROBE.format("key"),
    "rank": ("values above rounding", "values"),
    "effective_rank": ("how many values there are in effect, exp of the entropy of their shares", "values"),
    "gap": ("distance of a value to its nearest neighbour (T14)", SCORE),
    "largest_score": ("largest score possible, sigma_1 times the largest norms of inputs, over the divisor", "score"),
    "numerically_zero": "whether the largest score possible is below float32's epsilon",
    "gaussian_value": "singular value over the largest of heads of independent Gaussian entries, mean",
    "gaussian_effective_rank": ("effective rank of heads of independent Gaussian entries, mean", "values"),
    "gaussian_effective_rank_deviation": ("its standard deviation", "values"),
}


@dataclass(frozen=True)
class Settings(Options):
    """What standard errors and comparisons are made with."""

    resamples: Annotated[int, at_least(2)] = 100
    """Bootstrap samples behind a standard error."""
    gaussians: Annotated[int, at_least(2)] = 100
    """Heads of Gaussian factors to compare with."""
    seed: int = 0
    """Seed of bootstrap and Gaussian factors."""


DEFAULTS = Settings()


def requested(source: Source, settings: Settings) -> xr.Dataset:
    """What the command asks for."""
    return survey(source.bundle(), settings).assign_attrs(bundle=source.label)


def survey(bundle: HeadBundle, settings: Settings = DEFAULTS) -> xr.Dataset:
    """The spectrum of every head of a bundle; where it has what they read, balanced too, and what that allows."""
    said = bundle.metadata
    bundle, scales = without_norms(bundle)
    moments = None if scales is not None else layer_moments(bundle)
    results = _spectra(bundle, moments, scales)
    results = results.merge(_gaussian_heads(bundle, moments, settings, results.sizes["reading"]))
    if moments is not None:
        results = results.merge(token_bounds(bundle, moments, settings.seed, settings.resamples))
    return labelled(results.assign_attrs(said), VARIABLES)


def _spectra(bundle: HeadBundle, moments: Moments | None, scales: TokenScales | None) -> xr.Dataset:
    """The spectra of every head; vectors, gap and effective rank are NaN where they say nothing."""
    size = bundle.W_Q.size * len(VECTORS) * (1 if moments is None else len(READINGS)) * np.dtype(np.float32).itemsize
    read, kept = (_read, VECTORS) if size <= HELD else (_read_values, ())
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(kept, ("reading", "dimension", "pair"))
    axes |= dict.fromkeys(("rank", "effective_rank"), ("reading",))
    axes |= dict.fromkeys(("singular_value", "gap", "named", "block"), ("reading", "pair"))
    tokens = None if scales is None else bundle.attn_in
    real = None if bundle.mask is None else jnp.asarray(bundle.mask)
    found = over_heads(read, bundle, axes, (moments, tokens), (scales,), (real, rounding(bundle)))
    found = found.assign_coords(
        reading=list(READINGS[: found.sizes["reading"]]), pair=range(1, found.sizes["pair"] + 1)
    )
    check_values_held(found.singular_value.sel(reading="raw").values)
    divisors = np.array(bundle.scoring.divisors)[:, None]
    scale = xr.DataArray(_largest_norms(bundle, scales) / divisors, dims=PLACE).astype(np.float32)
    largest = found.singular_value.sel(reading="raw").isel(pair=0, drop=True)
    found["largest_score"] = (largest * scale).drop_vars("reading")
    zero = found["numerically_zero"] = found.largest_score < EPSILON
    named = found["named"] = found.named & ~zero
    for name, known in {**dict.fromkeys(kept, named), "gap": ~zero, "effective_rank": ~zero}.items():
        found[name] = found[name].where(known)
    found["rank"] = found["rank"].where(~zero, 0)
    return found


def _largest_norms(bundle: HeadBundle, scales: TokenScales | None) -> np.ndarray:
    """The product of the largest norms of what each head reads, of queries and keys, (layers, heads)."""
    if bundle.attn_in is None:
        return np.ones(bundle.W_Q.shape[:2])
    if scales is None:
        norms = np.array(
            in_threads(lambda tokens: largest_norm(tokens, bundle.real), bundle.attn_in, doing="token norms")
        )
        return np.tile(norms[:, None] ** 2, bundle.W_Q.shape[1])
    norms = np.linalg.norm(bundle.attn_in, axis=-1)[:, None]
    query, key = ((norms * side).max(axis=(2, 3), where=bundle.real, initial=0) for side in scales)
    return query * key


def _read(
    head: Head,
    moments: Moments | None,
    tokens: Array | None,
    scales: TokenScales | None,
    real: Array | None,
    rounding: Array,
) -> dict[str, Array]:
    """One head, raw and balanced, whose vectors can be named where gaps are above `rounding` times sigma_1."""
    s = spectrum(head.W_Q, head.W_K)
    found = [_described(BalancedSpectrum(s.values, s.left, s.left, s.right, s.right, s.gaps), rounding)]
    sides = None if moments is None else seen_by(head, moments)
    if tokens is not None:
        sides = seen_rescaled(head, *rescaled(tokens, scales), real)
    if sides is not None:
        found.append(_described(balanced(head.W_Q, head.W_K, *sides), rounding))
    return jax.tree.map(lambda *x: jnp.stack(x), *found)


def _read_values(*given: Any) -> dict[str, Array]:
    """The same without vectors."""
    return {name: x for name, x in _read(*given).items() if name not in VECTORS}


def _described(s: BalancedSpectrum, rounding: Array) -> dict[str, Array]:
    """One reading of one head."""
    error = rounding * s.values[0]
    labels = block_labels(s.values, error)
    found = {"singular_value": s.values, "gap": s.gaps, "named": s.gaps > error}
    found |= dict(zip(VECTORS, (s.query_patterns, s.query_probes, s.key_patterns, s.key_probes), strict=True))
    found |= {"block": 1 + firsts(labels), "rank": (s.values > error).sum()}
    return found | {"effective_rank": effective_rank(s.values)}


def _gaussian_heads(bundle: HeadBundle, moments: Moments | None, settings: Settings, readings: int) -> xr.Dataset:
    """Mean spectrum, relative to sigma_1, and effective rank of heads of independent Gaussian entries, by layer.

    NaN in a reading whose moments each head has for itself.
    """
    layers, _, H, D = bundle.W_Q.shape
    shape, one = (H, D), np.ones(D)
    raw = gaussian_values(shape, [(one, one)], settings.seed, settings.gaussians)[0]
    seen = [[raw] * layers]
    if moments is not None:
        lengths = np.stack([moments.uncentred.lengths, moments.centred.lengths])
        biased = np.zeros(layers, bool) if bundle.b_K is None else (bundle.b_K != 0).any(axis=2).all(axis=1)
        centred = np.asarray(bundle.query_bias.all(axis=1)), biased | (bundle.scoring.frequencies is None)
        query, key = (lengths[side.astype(int), np.arange(layers)] for side in centred)
        sides = list(zip(query, key, strict=True))
        seen.append(list(gaussian_values(shape, sides, settings.seed, min(LAYER_DRAWS, settings.gaussians))))
    seen += [[np.full_like(raw, np.nan)] * layers] * (readings - len(seen))
    of = lambda read: [[read(values) for values in reading] for reading in seen]  # noqa: E731
    ranks = ("reading", "layer")
    return xr.Dataset(
        {
            "gaussian_value": ((*ranks, "pair"), of(lambda values: values.mean(axis=0))),
            "gaussian_effective_rank": (ranks, of(lambda values: gaussian_effective_ranks(values).mean())),
            "gaussian_effective_rank_deviation": (ranks, of(lambda v: gaussian_effective_ranks(v).std(ddof=1))),
        },
        {"reading": list(READINGS[: len(seen)])},
    )
