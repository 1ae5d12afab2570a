"""Caused: what comes of the removals of one head, the model run on after each."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import xarray as xr
from jax import Array

from svtheory.checkpoints.edits import run_edited
from svtheory.checkpoints.inference import Added
from svtheory.checkpoints.networks import Network
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.weights import Head, bilinear
from svtheory.instruments import effects
from svtheory.instruments.effects import EFFECTS, NULLS, compared, labelled_effects, most_attended, tallied
from svtheory.instruments.labels import Labels
from svtheory.instruments.moments import Moments, seen_by, seen_rescaled
from svtheory.instruments.removals import (
    Along,
    Removal,
    at_random,
    change,
    of_features,
    of_modes,
    one_sided,
    removed_variance,
)
from svtheory.reports.options import Options, at_least
from svtheory.spectra.balanced import BalancedSpectrum, Root, balanced
from svtheory.spectra.spectra import Spectrum, spectrum

VARIABLES: Labels = {
    **effects.VARIABLES,
    "direction": "what a head no longer reads",
    "kind": "kind of direction",
    "intact": "mean weight of the intact head on the chosen key",
    "intact_loss": ("loss of the intact model, mean over targets", "nats"),
    "chance_loss": ("loss where every token is as likely, log(vocabulary)", "nats"),
    "removed_variance": "share of the score's variance that is gone where the direction reads 0",
    "directions_removed": ("how many directions are removed at once", "directions"),
}


@dataclass(frozen=True)
class Settings(Options):
    """What is removed of which heads, what takes its place, and what effects are held against."""

    heads: tuple[str, ...] = ()
    """Heads that are edited, each as LAYER.HEAD; none: all."""
    side: Literal["both", "query", "key"] = "both"
    """Side of a head that no longer reads a direction."""
    ablation: Literal["mean", "resample", "zero"] = "mean"
    """What a head reads in its place: the mean over tokens, what another sequence has there, or 0."""
    at: Literal["all", "last"] = "all"
    """Next tokens that are looked at: all of them, or the last of each sequence."""
    modes: Annotated[int, at_least(1)] = 2
    """Balanced modes and singular vectors that are removed one by one."""
    draws: Annotated[int, at_least(2)] = 8
    """Random directions of each kind."""
    resamples: Annotated[int, at_least(100)] = 1000
    """Bootstrap samples behind an interval."""
    seed: int = 0
    """Seed of random directions, of whose place is taken by which sequence, and of the bootstrap."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every head; keys None are those that the intact head attends most."""

    bundle: HeadBundle
    model: Network
    settings: Settings
    keys: np.ndarray | None
    targets: np.ndarray
    features: dict[int, np.ndarray]

    def keys_of(self, attention: np.ndarray) -> np.ndarray:
        """The key that each query should find, (sequences, positions), of an intact head's attention."""
        if self.keys is not None:
            return self.keys
        looked_at = self.bundle.real if self.settings.at == "all" else self.targets >= 0
        return most_attended(attention, looked_at)


class Read(NamedTuple):
    """One head without query-key norms, the tokens that its sides then read, their moments, and its modes."""

    head: Head
    query: Array
    key: Array
    roots: tuple[Root, Root]
    modes: BalancedSpectrum
    raw: Spectrum


def caused(asked: Asked, layer: int, head: int, before: Array, moments: Moments | None) -> xr.Dataset:
    """Effects of every removal of a head, whose model has `before` in its residual stream before the head's layer.

    `moments` are those of the layer's tokens, None where every head scales tokens for itself.
    """
    bundle, settings = asked.bundle, asked.settings
    assert bundle.attn_in is not None
    here = _read(bundle.head(layer, head), bundle.attn_in[layer], moments, bundle.real)
    planned = removals_of(here, asked, np.random.default_rng([settings.seed, layer, head]))
    edits = [_edit(here, asked, head, removal) for removal in planned]
    nothing = jax.tree.map(np.zeros_like, edits[0])._replace(heads=edits[0].heads)
    passed = run_edited(asked.model, layer, before, [nothing, *edits])
    attention = passed.attention[:, :, 0]
    keys = asked.keys_of(attention[0])
    tally = tallied(asked.model, attention, passed.after, keys, asked.targets)
    kinds = np.array([removal.kind for removal in planned])
    found = labelled_effects(compared(tally, kinds, settings.resamples, [settings.seed, layer, head, 1]))
    s, p = np.nonzero(keys >= 0)
    found = found.assign(
        intact=attention[0][s, p, keys[s, p]].mean(),
        intact_loss=tally.intact_loss,
        effect_of_sequence=(("direction", "sequence", "effect"), tally.means.astype(np.float32)),
    )
    return found.merge(_described(here, planned)).assign_coords(effect=list(EFFECTS), null=list(NULLS))


def _described(here: Read, planned: list[Removal]) -> xr.Dataset:
    """What each removal is called, how many directions it takes, and how much of the score's variance."""
    query, key = here.roots
    data = {
        "removed_variance": [removed_variance(here.head, query, key, removal) for removal in planned],
        "directions_removed": [max(x.probes.shape[1] for x in removal[2:]) for removal in planned],
    }
    names = {"direction": [removal.name for removal in planned], "kind": [removal.kind for removal in planned]}
    return xr.Dataset({name: ("direction", x) for name, x in (data | names).items()}).set_coords(list(names))


@jax.jit
def _read(head: Head, tokens: Array, moments: Moments | None, real: Array) -> Read:
    plain, r, s = bilinear(head, tokens, tokens)
    roots = seen_rescaled(plain, r, s, real) if moments is None else seen_by(plain, moments)
    return Read(plain, r, s, roots, balanced(plain.W_Q, plain.W_K, *roots), spectrum(plain.W_Q, plain.W_K))


def removals_of(here: Read, asked: Asked, rng: np.random.Generator) -> list[Removal]:
    """All that is removed of a head, one after another, on the side asked for."""
    settings = asked.settings
    own = [*of_modes(here.modes, here.raw, min(settings.modes, len(here.raw.values))), *of_features(asked.features)]
    many = next(removal.query.probes.shape[1] for removal in own if removal.kind == "leading modes")
    every = [*own, *at_random(*here.roots, many, settings.draws, rng)]
    return [one_sided(removal, settings.side) for removal in every]


def _edit(here: Read, asked: Asked, head: int, removal: Removal) -> Added:
    """What a removal adds to the queries and keys of a head, (sequences, 1, positions, d_head) each."""
    queries = _change(asked, here.head.W_Q, removal.query, here.query)
    return Added(np.array([head]), queries, _change(asked, here.head.W_K, removal.key, here.key))


def _change(asked: Asked, W: Array, along: Along, tokens: Array) -> np.ndarray:
    """What is added on one side, whose coordinates become what takes their place."""
    coordinates, real = np.asarray(tokens) @ along.probes, asked.bundle.real
    put: Any = 0.0
    if asked.settings.ablation == "mean":
        put = coordinates[real].mean(axis=0)
    if asked.settings.ablation == "resample":
        put = coordinates[donors(real, asked.settings.seed), np.arange(real.shape[1])[None]]
    return change(np.asarray(W), along, coordinates, put)[:, None].astype(W.dtype)


def donors(real: np.ndarray, seed: int) -> np.ndarray:
    """For every position of a sequence another sequence that has a token there, (sequences, positions).

    The next in one random order; a position that one sequence alone reaches keeps its own.
    """
    order, found = np.random.default_rng(seed).permutation(len(real)), np.zeros(real.shape, int)
    for position, inside in enumerate(real.T):
        those = order[inside[order]]
        found[those, position] = np.roll(those, 1)
    return found
