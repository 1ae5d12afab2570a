"""Rotary heads (the paper's App D): targets that depend on the offset or not, and how many pairs a head has room for.

A rotary head is asked for `g(d) T` at offset d. For a single pair theory says (T13) that its singular vectors are the
same at every offset, those of the head without positions, and `sigma(d) = |g^(d)| sigma*`, g^ being the projection of
g on what the head's frequencies can express. The baseline is g itself. Then a head of H = 4 rows, all turned at one
frequency theta, is asked for 2 and for 4 equal pairs at every offset alike: a plane has room for two pairs where theta
d_max is small and for one up to about 2, so capacity falls from H to H/2; farther out no plane holds a target that does
not turn, and it falls to 0. Kept pairs are K less the cost in pairs. Losses are squared; offsets are uniform and
independent of the activations.

Rules, set before the run: for each profile no sigma(d) off by more than 0.02 sigma*, and no singular vector with |g^|
of at least 0.05 below |cos| = 0.999 with the predicted one; for each number of pairs no head off by more than 0.02
pairs, the best of its random starts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from matplotlib.axes import Axes

from sims.engines.descent import descend
from sims.lab.command import command
from sims.lab.rules import standard_error
from sims.lab.sizes import Frames
from sims.lab.sweep import each, grid, labelled
from svtheory import Scenario, chance_alignment, conditioned_frame, rotary_head, rotary_spectra, single_pair, spectrum
from svtheory.prediction import plane_cost, projected_profile
from svtheory.reports.options import FINITE, at_least
from svtheory.reports.plotting import COLOURS, GREY, measured, panels, predicted_against_measured
from svtheory.reports.runs import Exhibit, Outcome, checkpoints

PROFILES: dict[str, Callable[[Array], Array]] = {
    "every offset alike": jnp.ones_like,
    "previous token": lambda d: (d == 1).astype(d.dtype),
    "fading": lambda d: jnp.exp(-d / 4),
    "period of twelve": lambda d: jnp.cos(jnp.pi * d / 6),
}
THEOREMS = ("T13",)
VALUE_TOLERANCE, COSINE, VISIBLE, PAIR_TOLERANCE = 0.02, 0.999, 0.05, 0.02
CONDITION = 10.0  # condition number of the frames, so that singular vectors are duals, not features
ROWS = 4  # head dimension of the heads whose capacity is measured


@dataclass(frozen=True)
class Config(Frames):
    """Size of the experiment."""

    ARRAYS = (
        *Frames.ARRAYS,
        "frames n_offsets n_features n_features",
        "frames dim n_features",
        "turns starts n_offsets 32",
    )

    frequencies: Annotated[tuple[float, ...], FINITE] = (1.0, 0.6, 0.3, 0.1)
    """Radians a position of the single-pair heads' planes."""
    n_offsets: Annotated[int, at_least(2)] = 16
    """Offsets 0, 1, ..., n - 1."""
    frames: Annotated[int, at_least(2)] = 3
    """Random heads for each profile."""
    turns: Annotated[int, at_least(2)] = 8
    """How many frequencies, log-spaced, in the sweep of capacity."""
    starts: Annotated[int, at_least(1)] = 3
    """Random starts for each head of the sweep of capacity."""
    steps: Annotated[int, at_least(1)] = 1000
    """Steps of L-BFGS."""

    @property
    def offsets(self) -> Array:
        """All offsets d."""
        return jnp.arange(float(self.n_offsets))


SCALES = {
    "quick": Config(dim=6, n_features=9),
    "paper": Config(dim=16, n_features=32, n_offsets=32, frames=16, turns=25, starts=16),
    "full": Config(dim=64, n_features=128, n_offsets=64, frames=128, turns=49, starts=64, steps=5000),
}


def run(config: Config, folder: Path) -> Outcome:
    """Predict, train and compare single pairs of every profile, and the capacity of one frequency."""
    pairs, room = single_pairs(config, folder), capacity(config, folder)
    results = pairs.merge(room, combine_attrs="override")
    return Outcome(_summary(pairs, room), results, {"rotary": _exhibit(pairs, room)}, list(_rows(pairs, room)))


def rotary_loss(weights: dict[str, Array], asked: tuple[Array, Array, Array], offsets: Array, theta: Array) -> Array:
    """`(1/2) mean_d |X^T Omega_d Y - T_d|_F^2` of features X, Y and targets T_d, shape (n, N, N)."""
    X, Y, targets = asked
    head = rotary_head(weights["W_Q"], weights["W_K"], theta, "half-split")

    def at(offset, target):
        W_Q, W_K = head.at(offset)
        with jax.default_matmul_precision("highest"):
            return (((W_Q @ X).T @ (W_K @ Y) - target) ** 2).sum() / 2

    return jax.vmap(at)(offsets, targets).mean()


def trained(
    config: Config, asked: tuple[Array, Array, Array], theta: Array, keys: Array, checkpoint: Path, label: str
) -> tuple[dict[str, Array], Array]:
    """Heads of planes that turn at theta (M, H/2), from small random ones, and their losses, (M,)."""
    M, planes = theta.shape
    size = 2, 2 * planes, asked[0].shape[1]
    factors = 0.3 / size[-1] ** 0.5 * jax.jit(jax.vmap(lambda key: jax.random.normal(key, size)))(keys)
    given = asked, jnp.asarray(np.tile(config.offsets, (M, 1))), theta
    weights = {"W_Q": factors[:, 0], "W_K": factors[:, 1]}
    weights, _ = descend(rotary_loss, weights, keys, config.steps, *given, checkpoint=checkpoint, label=label)
    return weights, jax.jit(jax.vmap(rotary_loss))(weights, *given)


def single_pairs(config: Config, folder: Path) -> xr.Dataset:
    """Singular values and vectors at every offset of heads trained for one pair."""
    names = grid(profile=PROFILES, frame=range(config.frames))["profile"]
    keys = jax.random.split(jax.random.key(config.seed), len(names))
    theta = jnp.array(config.frequencies)
    profiles = jnp.asarray(np.stack([PROFILES[name](config.offsets) for name in names]))
    scenarios = each(partial(_scenario, config), keys)
    asked = scenarios.query_features, scenarios.key_features, profiles[:, :, None, None] * scenarios.target[:, None]
    given = asked, jnp.asarray(np.tile(theta, (len(names), 1))), keys
    weights, _ = trained(config, *given, checkpoints(folder) / "pairs", f"{len(names)} heads, one pair")
    found = each(partial(_read, config.offsets, theta), scenarios, profiles, weights)
    results = labelled(found, {"profile": names}, "head", "offset").assign_coords(offset=np.asarray(config.offsets))
    return results.assign_attrs(chance=chance_alignment(config.dim))


def _scenario(config: Config, key: Array) -> Scenario:
    X, Y = (conditioned_frame(k, config.dim, config.n_features, CONDITION) for k in jax.random.split(key))
    return Scenario(X, Y, single_pair(config.n_features, config.n_features, 0, 0))


def _read(offsets: Array, theta: Array, scenario: Scenario, profile: Array, weights: Any) -> dict[str, Array]:
    """First singular values over sigma*, and |cos| of predicted with trained vectors, at every offset."""
    predicted = rotary_spectra(scenario, profile, theta, offsets)
    head = rotary_head(weights["W_Q"], weights["W_K"], theta, "half-split")
    trained = jax.lax.map(lambda offset: spectrum(*head.at(offset)), offsets)
    sides = ((predicted.left, trained.left), (predicted.right, trained.right))
    cosines = [jnp.abs((a[:, :, 0] * b[:, :, 0]).sum(axis=1)) for a, b in sides]
    unit = rotary_spectra(scenario, jnp.ones_like(offsets), jnp.zeros(1), offsets).values[0, 0]
    return {
        "predicted": predicted.values[:, 0] / unit,
        "measured": trained.values[:, 0] / unit,
        "second": trained.values[:, 1] / unit,
        "profile_asked": jnp.abs(profile),
        "cosine": jnp.minimum(*cosines),
    }


def capacity(config: Config, folder: Path) -> xr.Dataset:
    """Pairs kept by heads of one frequency, of H/2 and of H equal pairs, the best of their starts."""
    axes = {"pairs": np.array([ROWS // 2, ROWS]), "reach": np.geomspace(0.05, 20, config.turns)}  # theta d_max
    cells = grid(**axes, start=range(config.starts))
    M, last = len(cells["pairs"]), config.n_offsets - 1
    target = np.where(np.arange(ROWS) < cells["pairs"][:, None], 1.0, 0.0)[:, :, None] * np.eye(ROWS)
    eye, targets = np.tile(np.eye(ROWS), (M, 1, 1)), np.tile(target[:, None], (1, config.n_offsets, 1, 1))
    theta = np.tile(cells["reach"][:, None] / last, (1, ROWS // 2))
    asked, theta = jax.tree.map(lambda x: jnp.asarray(x, float), ((eye, eye, targets), theta))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), M)
    _, losses = trained(config, asked, theta, keys, checkpoints(folder) / "capacity", f"{M} heads, equal pairs")
    kept = cells["pairs"] - 2 * np.asarray(losses)
    room = each(partial(_room, config.offsets), jnp.asarray(axes["reach"] / last, float))
    data = {
        "kept": (("pairs", "reach", "start"), kept.reshape(2, config.turns, config.starts)),
        "kept_predicted": (("pairs", "reach"), np.asarray(room).T),
    }
    return xr.Dataset(data, axes)


def _room(offsets: Array, theta: Array) -> Array:
    """Pairs kept of H/2 and of H by planes of one frequency, which hold one and two (T13), shape (2,)."""
    alone = (projected_profile(jnp.ones_like(offsets), theta[None], offsets) ** 2).mean()
    return ROWS // 2 * jnp.stack([alone, 2 - plane_cost(theta, offsets)])


def _rows(pairs: xr.Dataset, room: xr.Dataset) -> Iterator[dict[str, Any]]:
    """A row a profile, all offsets, and one for each number of equal pairs, all frequencies, best of the starts."""
    for name in PROFILES:
        here = pairs.sel(head=pairs.profile == name)
        cosine = here.cosine.where(here.predicted >= VISIBLE).min().item()
        error = np.abs(here.measured - here.predicted)
        yield {
            "target": f"one pair, {name}",
            "heads": here.sizes["head"],
            **_errors(error, error.mean("offset")),
            "without projection": np.abs(here.measured - here.profile_asked).max().item(),
            "lowest |cos|": cosine,
            "chance": pairs.attrs["chance"],
            "holds": bool(error.max() <= VALUE_TOLERANCE and cosine >= COSINE),
        }
    for asked in room.pairs.values:
        here = room.sel(pairs=asked)
        best = here.kept.max("start")
        error = np.abs(best - here.kept_predicted)
        yield {
            "target": f"{asked} equal pairs, H = {ROWS}",
            "heads": here.kept.size,
            **_errors(error, error),
            "without projection": np.abs(best - asked).max().item(),  # every pair would be kept
            "lowest |cos|": None,
            "chance": None,
            "holds": bool(error.max() <= PAIR_TOLERANCE),
        }


def _errors(error: xr.DataArray, independent: xr.DataArray) -> dict[str, float]:
    """The mean of independent errors, its standard error, and the largest of all."""
    s_e = standard_error(independent.values)
    return {"mean |error|": independent.mean().item(), "s.e.": s_e, "largest |error|": error.max().item()}


def _summary(pairs: xr.Dataset, room: xr.Dataset) -> dict[str, Any]:
    full, half = room.sel(pairs=ROWS), room.sel(pairs=ROWS // 2)
    near = np.abs(room.kept - room.kept_predicted) <= PAIR_TOLERANCE
    return {
        "heads": pairs.sizes["head"] + room.kept.size,
        "max_error_sigma_over_optimum": np.abs(pairs.measured - pairs.predicted).max().item(),
        "max_error_sigma_without_projection": np.abs(pairs.measured - pairs.profile_asked).max().item(),
        "lowest_cosine": pairs.cosine.where(pairs.predicted >= VISIBLE).min().item(),
        "second_over_optimum_singular_value_highest": pairs.second.max().item(),
        "chance_cosine": pairs.attrs["chance"],
        "max_error_kept_pairs": np.abs(room.kept.max("start") - room.kept_predicted).max().item(),
        "starts_that_reach_the_best_share": near.mean().item(),
        "kept_of_H_at_the_smallest_angle": full.kept.max("start")[0].item(),
        "kept_of_half_H_at_angle_1": np.interp(1.0, half.reach, half.kept.max("start")).item(),
        "kept_of_H_at_angle_1": np.interp(1.0, full.reach, full.kept.max("start")).item(),
    }


def _exhibit(pairs: xr.Dataset, room: xr.Dataset) -> Exhibit:
    figure, axes = panels(3, 2, width=4.2, height=3.5)
    places = dict(zip(PROFILES, (axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]), strict=True))
    for name, ax in places.items():
        heads = pairs.sel(head=pairs.profile == name)
        ax.plot(heads.offset, heads.profile_asked[0], color=GREY, linestyle=":", label="asked, |g(d)|")
        ax.plot(heads.offset, heads.predicted.mean("head"), color=COLOURS[1], label=r"predicted, $|\hat g(d)|$")
        measured(ax, heads.offset, heads.measured.mean("head"), heads.measured.std("head", ddof=1), label="trained")
        ax.set(ylim=(-0.05, 1.25), title=f"one pair, {name}", xlabel="offset d (positions)")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\sigma(d)\,/\,\sigma^*$")
    axes[0, 0].legend(loc="lower right")
    every = pairs.predicted.values.ravel(), pairs.measured.values.ravel()
    predicted_against_measured(axes[0, 2], *every, markersize=3, alpha=0.5)
    axes[0, 2].set(xlabel=r"predicted $\sigma(d)/\sigma^*$", ylabel=r"$\sigma(d)/\sigma^*$", title="every head, offset")
    _draw_room(axes[1, 2], room)
    return Exhibit(
        figure,
        "Singular values of rotary heads over the offset (points, standard deviation) on the projected profile (line); "
        "right below, how many of H/2 and H equal pairs a head of one frequency keeps.",
    )


def _draw_room(ax: Axes, room: xr.Dataset) -> None:
    """Pairs kept against the largest angle."""
    for pairs, colour, shape in zip(room.pairs.values, (COLOURS[0], COLOURS[2]), "os", strict=True):
        here = room.sel(pairs=pairs)
        ax.plot(here.reach, here.kept_predicted, color=colour)
        measured(ax, here.reach, here.kept.max("start"), color=colour, fmt=shape, label=f"{pairs} pairs asked for")
        ax.plot(here.reach, here.kept, ".", color=colour, alpha=0.4, markersize=3)
    for level, name in ((ROWS, "H"), (ROWS // 2, "H/2")):
        ax.axhline(level, color=GREY, linestyle=":")
        ax.text(room.reach[-1], level, f" {name}", va="center")
    ax.set(xscale="log", ylim=(-0.2, ROWS + 0.3), title="capacity, best of the starts (small: the others)")
    ax.set(xlabel=r"largest angle $\theta\, d_{max}$ (radians)", ylabel="pairs kept")
    ax.legend(loc="lower left")


main = command(run, SCALES)

if __name__ == "__main__":
    main()
