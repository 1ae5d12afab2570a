"""Spectra of all heads, with gaps and effective ranks, and the alignment that their token moments allow.

For every head of a bundle (safetensors: W_Q, W_K, perhaps what they read) the singular values of Omega = W_Q^T W_K, how
many it effectively has, beside factors of independent Gaussian entries, and which of its singular vectors can be named:
those whose gap is above the rounding D eps sigma_1 of the stored matrix (T14). A head whose largest possible score,
sigma_1 times the largest input norms (1 where no inputs are given) over the score divisor, is below float32's epsilon
is numerically zero and has no directions. Rotary heads are read at offset 0.

Where inputs are given, each layer's token moments: the covariance on the key side and for queries with a bias that is
not zero, else the second moment (T6). Their condition number kappa, on their range (singular values of the tokens above
max(D, tokens) eps of the largest), bounds the cosine of the leading singular vector of a single matched pair with
E[r f_i], the feature itself where activations are uncorrelated and centred, by 2 sqrt(kappa)/(1 + kappa) after training
to the end, and by more after shorter training (kappa_t of T17: gradient flow on Omega from zero, small logits). A bound
below chance, the mean |cos| of random directions, promises nothing: table and summary say so. Time is counted in units
of 1/(L_r L_s), the time constant of the fastest mode. Standard errors are those of a bootstrap over sequences.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.weights import Head
from svtheory.instruments.sources import Source, check_values_held
from svtheory.instruments.survey import PLACE, layer_colours, over_heads, places
from svtheory.instruments.token_bounds import TIMES, token_bounds
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import chance_line, measured, panels_or
from svtheory.spectra.perturbation import nameable
from svtheory.spectra.spectra import effective_rank, spectrum

EPSILON = float(np.finfo(np.float32).eps)
SHORTER = (1, 10, 100)  # times, in units of the fastest mode, that the summary quotes
SPECTRA = (
    "Singular values of each head over its largest, beside the mean of Gaussian factors of the same shape (line); "
    "hollow points cannot be named."
)
BOUNDS = (
    " Right, the alignment of a single matched pair that each layer's token moments guarantee after training "
    "for a time (lines), and at its end (points, with standard errors)."
)


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
    """The spectrum of every head of a bundle; where it has what they read, the alignment that allows."""
    first, second = jax.random.split(jax.random.key(settings.seed))
    results = _spectra(bundle).merge(_gaussian_heads(bundle.W_Q.shape[2:], first, settings.gaussians))
    if bundle.attn_in is not None:
        results = results.merge(token_bounds(bundle, second, settings.resamples))
    return results.assign_attrs(bundle.metadata)


def rows(results: xr.Dataset) -> list[dict[str, Any]]:
    """A row a head."""
    return [_row(head) for head in places(results, *PLACE)]


def _spectra(bundle: HeadBundle) -> xr.Dataset:
    """The spectrum of every head; vectors, gap and effective rank are NaN where they say nothing."""
    axes = {"left": ("dimension", "pair"), "right": ("dimension", "pair"), "rank": (), "effective_rank": ()}
    axes |= dict.fromkeys(("singular_value", "gap", "named"), ("pair",))
    rounding = bundle.W_Q.shape[-1] * max(EPSILON, bundle.epsilon)
    found = over_heads(_spectrum, bundle, axes, shared=(rounding,))
    check_values_held(found.singular_value.values)
    norms = 1.0
    if bundle.attn_in is not None:
        norms = np.linalg.norm(bundle.attn_in, axis=-1).max(axis=(1, 2), where=bundle.real, initial=0).astype(float)
    scale = xr.DataArray(norms**2 / np.array(bundle.scoring.divisors), dims="layer").astype(np.float32)
    found["largest_score"] = (found.singular_value[..., 0] * scale).drop_vars("pair", errors="ignore")
    zero = found["numerically_zero"] = found.largest_score < EPSILON
    named = found["named"] = found.named & ~zero
    for name, known in {"left": named, "right": named, "gap": ~zero, "effective_rank": ~zero}.items():
        found[name] = found[name].where(known)
    found["rank"] = found["rank"].where(~zero, 0)
    return found.assign_coords(pair=range(1, found.sizes["pair"] + 1))


def _spectrum(head: Head, rounding: Array) -> dict[str, Array]:
    """The spectrum of one head, whose vectors can be named where gaps are above `rounding` times sigma_1."""
    s = spectrum(head.W_Q, head.W_K)
    error = rounding * s.values[0]
    rank = (s.values > error).sum()
    found = {"singular_value": s.values, "gap": s.gaps, "left": s.left, "right": s.right}
    return found | {"named": nameable(s, error), "rank": rank, "effective_rank": effective_rank(s.values)}


def _gaussian_heads(shape: tuple[int, ...], key: Array, draws: int) -> xr.Dataset:
    """Mean spectrum, relative to sigma_1, and effective rank of heads of independent Gaussian entries."""
    values, effective = (np.asarray(x) for x in _drawn(shape, jax.random.split(key, draws)))
    return xr.Dataset(
        {
            "gaussian_value": ("pair", values.mean(axis=0)),
            "gaussian_effective_rank": ((), effective.mean()),
            "gaussian_effective_rank_deviation": ((), effective.std(ddof=1)),
        }
    )


@partial(jax.jit, static_argnums=0)
def _drawn(shape: tuple[int, ...], keys: Array) -> tuple[Array, Array]:
    def draw(key):
        s = spectrum(*jax.random.normal(key, (2, *shape)))
        return s.values / s.values[0], effective_rank(s.values)

    return jax.lax.map(draw, keys)


def _row(here: xr.Dataset) -> dict[str, Any]:
    """One head: its first singular value, rank and nameable pairs, and what its layer's tokens allow."""
    zero = bool(here.numerically_zero)
    sigma = float(here.singular_value[0])
    row = {
        **{name: int(here[name]) for name in PLACE},
        "sigma_1": sigma,
        "gap_1/sigma_1": float("nan") if zero else float(here.gap[0]) / sigma,
        "effective rank": float(here.effective_rank),
        "rank": int(here["rank"]),
        "largest score": float(here.largest_score),
        "directions named": "none: numerically zero" if zero else f"{int(here.named.sum())} of {here.named.size}",
    }
    for side in here.side.values if "side" in here.dims else ():
        there = here.sel(side="key" if bool(here.query_bias) else side)
        row[f"kappa, {side}"] = f"{float(there.condition):.3g} ± {float(there.condition_standard_error):.2g}"
        below = " (below chance)" if there.bound < there.chance_cosine else ""
        row[f"bound, {side}"] = f"{float(there.bound):.4g}{below}"
    return row


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures of all heads."""
    zero, largest = results.numerically_zero, results.singular_value.isel(pair=0)
    found = {
        "heads": zero.size,
        "heads_numerically_zero": int(zero.sum()),
        "directions": results.named.size,
        "directions_named": int(results.named.sum()),
        "rank_lowest": int(results["rank"].min()),
        "rank_highest": int(results["rank"].max()),
        "sigma_1_lowest": float(largest.min()),
        "sigma_1_highest": float(largest.max()),
        "effective_rank_median": float(results.effective_rank.median()),
        "effective_rank_of_gaussian_factors": float(results.gaussian_effective_rank),
        "effective_rank_of_gaussian_factors_standard_deviation": float(results.gaussian_effective_rank_deviation),
    }
    if "side" not in results.dims:
        return found
    worst = results.stack(moment=("layer", "side")).isel(moment=int(np.argmax(results.condition.values)))
    shorter = results.bound_at_time.min(("layer", "side"))
    return found | {
        "tokens": int(results.tokens),
        "condition_number_highest": float(worst.condition),
        "condition_number_highest_standard_error": float(worst.condition_standard_error),
        "alignment_bound_lowest_cosine": float(worst.bound),
        "alignment_bound_lowest_cosine_standard_error": float(worst.bound_standard_error),
        **{
            f"alignment_bound_lowest_cosine_after_{t}_time_constants": float(np.interp(t, results.time, shorter))
            for t in SHORTER
        },
        "chance_cosine": float(results.chance_cosine),
        "layers_and_sides": results.bound.size,
        "layers_and_sides_bounded_below_chance": int((results.bound < results.chance_cosine).sum()),
    }


def figure(results: xr.Dataset, axes: Any = None) -> Figure:
    """The spectrum of every head, and the bounds of every layer; on `axes`, one or two, where they are given."""
    drawn, axes = panels_or(axes, columns=1 + ("side" in results.dims))
    colours = layer_colours(results)
    _draw_spectra(axes[0], results, colours)
    if "side" in results.dims:
        _draw_bounds(axes[1], results, colours)
    return drawn


def caption(results: xr.Dataset) -> str:
    """What to see in the figure."""
    return SPECTRA + (BOUNDS if "side" in results.dims else "")


def _draw_spectra(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """`sigma_k / sigma_1` of every head that is not numerically zero."""
    heads, zero = results.sizes["head"], int(results.numerically_zero.sum())
    shown = results.singular_value.where(~results.numerically_zero)
    relative = shown / shown.isel(pair=0)
    ax.plot(results.pair, results.gaussian_value, color="black", label="Gaussian factors")
    for layer, colour in enumerate(colours):
        for head in range(heads):
            x = results.pair.values + 0.5 * (head - (heads - 1) / 2) / heads
            y, named = relative[layer, head].values, results.named[layer, head].values
            style = {"color": colour, "markersize": 3.5, "alpha": 0.8}
            ax.plot(x, y, "o", markerfacecolor="none", **style)
            ax.plot(x[named], y[named], "o", label=None if head else f"layer {layer}", **style)
    if zero == results.numerically_zero.size:
        ax.text(0.5, 0.5, "every head is numerically zero", ha="center", transform=ax.transAxes)
    name, number = results.attrs.get("bundle", "all heads"), results.numerically_zero.size
    title = f"{name}: {number} heads" + (f", {zero} zero" if zero else "")
    ax.set(xlabel="pair k", ylabel=r"$\sigma_k / \sigma_1$", title=title)
    ax.set(yscale="log") if relative.min() < 0.01 else ax.set(ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(ncols=1 + results.sizes["layer"] // 6)


def _draw_bounds(ax: Axes, results: xr.Dataset, colours: np.ndarray) -> None:
    """The bound of each layer and side against training time, and at its end."""
    ends = np.geomspace(2, 100, 2 * len(colours)).reshape(-1, 2) * TIMES[-1]
    for layer, colour in enumerate(colours):
        for side, line, marker, end in (("key", "-", "o", ends[layer, 0]), ("query", "--", "s", ends[layer, 1])):
            here = results.sel(layer=layer, side=side)
            ax.plot(here.time, here.bound_at_time, line, color=colour)
            measured(ax, end, here.bound, here.bound_standard_error, color=colour, fmt=marker)
    for side, line, marker in (("keys", "-", "o"), ("queries", "--", "s")):
        ax.plot([], [], line, marker=marker, color="black", label=f"{side}, colours as left")
    chance_line(ax, float(results.chance_cosine))
    levels = (0.05, 0.1, 0.2, 0.5, 1)
    ax.set(
        xscale="log", yscale="log", title="least alignment, single pair", yticks=levels, yticklabels=map(str, levels)
    )
    ticks = {0.01: "0.01", 1: "1", 100: "100", 1e4: "10⁴", 1e6: "10⁶", np.sqrt(ends[0, 0] * ends[-1, 1]): "end"}
    ax.set(xticks=list(ticks), xticklabels=list(ticks.values()))
    ax.minorticks_off()
    ax.set(xlabel=r"training time $\times\ L_r L_s$", ylabel=r"$|\cos(u, E[r f_i])|$")
    ax.legend(loc="upper right")
