"""Traced: decisions taken apart into the components of both sides, and the decisions of heads that those name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.checkpoints.components import KINDS, SIDES, Labels, Reader, Recorded
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import mode_factors
from svtheory.heads.read_together import READINGS
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.weights import Head
from svtheory.instruments.decisions import Decision
from svtheory.instruments.moments import Moments, layer_moments, seen_by, seen_rescaled
from svtheory.instruments.survey import check_room, over_heads, rounding
from svtheory.progress import track
from svtheory.spectra.balanced import BalancedSpectrum, balanced
from svtheory.spectra.blocks import block_labels
from svtheory.spectra.spectra import spectrum

HEAD = KINDS.index("head")


@dataclass(frozen=True)
class Shown:
    """How much of a decision is kept: components a side, those that are followed, the decisions deep, and modes."""

    top: int
    branches: int
    depth: int
    modes: int


class Part(NamedTuple):
    """One decision, arrays of both sides on a first axis; see trace's Dataset."""

    score: float
    labels: np.ndarray
    contribution: np.ndarray
    remainder: np.ndarray
    components: np.ndarray
    table: np.ndarray
    contribution_of_mode: np.ndarray
    remainder_of_mode: np.ndarray
    score_of_mode: np.ndarray
    contribution_of_writer: np.ndarray


def head_readings(bundle: HeadBundle) -> xr.Dataset:
    """Of every head its scores over the divisor, and what makes terms of queries and keys, raw and balanced (T22)."""
    plain, scales = without_norms(bundle)
    moments = layer_moments(plain) if scales is None else None
    axes = {"score": ("sequence", "position", "seen"), "block": ("reading", "pair")}
    axes |= dict.fromkeys(("query_factor", "key_factor"), ("reading", "row", "pair"))
    real = None if bundle.mask is None else jnp.asarray(bundle.mask)
    given = (plain.attn_in, moments), (scales,), (real, rounding(bundle))
    return over_heads(_read, plain, axes, *given, "heads read").assign_coords(reading=list(READINGS))


def _read(
    head: Head, tokens: Array, moments: Moments | None, scales: TokenScales | None, real: Array | None, rounding: Array
) -> dict[str, Array]:
    (r, s), at = rescaled(tokens, scales), jnp.arange(tokens.shape[1])
    sides = seen_rescaled(head, r, s, real) if moments is None else seen_by(head, moments)
    raw = spectrum(head.W_Q, head.W_K)
    raw = BalancedSpectrum(raw.values, raw.left, raw.left, raw.right, raw.right, raw.gaps)
    found = []
    for modes in (raw, balanced(head.W_Q, head.W_K, *sides)):
        A, B = mode_factors(head, modes)
        block = block_labels(modes.values, rounding * modes.values[0])
        found.append({"query_factor": A, "key_factor": B, "block": block})
    scores = jnp.matmul(head.queries(r, at), head.keys(s, at).swapaxes(1, 2), precision="highest")
    return {"score": scores / head.divisor, **jax.tree.map(lambda *x: jnp.stack(x), *found)}


def writers(found: Recorded) -> list[str]:
    """What may have written what a head reads: embedding, position, heads, MLPs, and all biases together, if any."""
    a = found.architecture
    heads = [f"{i}.{h}" for i in range(a.layers) for h in range(a.heads)]
    mlps = [f"mlp {i}" for i in range(a.layers)] if found.layers[0].hidden is not None else []
    biased = any(any(of.biases) or any(map(of.side_bias, SIDES)) for of in found.layers)
    learned = found.positions is not None
    return ["embedding", *["position"] * learned, *heads, *mlps, *["biases"] * biased]


def traced(
    found: Recorded, readings: xr.Dataset, roots: Sequence[Decision], shown: Shown
) -> tuple[list[Decision], list[int], list[Part], np.ndarray]:
    """The decisions `roots` and, to a depth, those of heads among their strongest components, each once.

    Decisions in order, how deep each stands, its part, and by side and component the number of the decision that traces
    it, -1 where none does.
    """
    index = {decision: n for n, decision in enumerate(dict.fromkeys(roots))}
    depths, parts, children = [1] * len(index), {}, {}
    fresh = list(index)
    for depth in range(1, shown.depth + 1):
        check_tables(shown, len(index))
        parts.update(zip(*_parts(found, readings, fresh, shown), strict=True))
        asked = {} if depth == shown.depth else {d: _followed(d, parts[d], shown.branches) for d in fresh}
        children.update(asked)
        fresh = [d for d in dict.fromkeys(c for of in asked.values() for c in of.values()) if d not in index]
        index.update({d: len(index) + n for n, d in enumerate(fresh)})
        depths += [depth + 1] * len(fresh)
    child = np.full((len(index), len(SIDES), shown.top), -1)
    for decision, n in index.items():
        for place, to in {**children.get(decision, {}), **_known(decision, parts[decision], index)}.items():
            child[n, *place] = index[to]
    return list(index), depths, [parts[d] for d in index], child


def check_tables(shown: Shown, decisions: int) -> None:
    """Raise InputError where tables of so many decisions have no room."""
    check_room("--top, --branches and --depth", f"tables of decisions ({decisions})", decisions * (shown.top + 1) ** 2)


def _followed(decision: Decision, part: Part, branches: int) -> dict[tuple[int, int], Decision]:
    """The decisions of the strongest components of either side that are heads, by side and component."""
    chosen = {}
    for i in range(len(SIDES)):
        heads = [j for j, kind in enumerate(part.labels[i, :, 0]) if kind == HEAD and part.contribution[i, j]]
        chosen |= {(i, j): _behind(decision, part, i, j) for j in heads[:branches]}
    return chosen


def _known(decision: Decision, part: Part, index: dict[Decision, int]) -> dict[tuple[int, int], Decision]:
    """Of all components shown that are heads, those whose decision is traced for another's sake."""
    places = zip(*np.nonzero(part.labels[:, :, 0] == HEAD), strict=True)
    behind = {(int(i), int(j)): _behind(decision, part, i, j) for i, j in places}
    return {place: to for place, to in behind.items() if to in index}


def _behind(decision: Decision, part: Part, i: int, j: int) -> Decision:
    """Why a head took from its source: its own decision."""
    _, layer, head, source = map(int, part.labels[i, j])
    return Decision(layer, head, decision.sequence, decision.at(list(SIDES)[i]), source)


def _parts(
    found: Recorded, readings: xr.Dataset, decisions: Iterable[Decision], shown: Shown
) -> tuple[list[Decision], list[Part]]:
    """Decisions and their parts, head after head: what a head makes of others' outputs is found once."""
    ordered, parts, names = sorted(decisions), [], writers(found)
    for (layer, head), group in track(groupby(ordered, lambda d: d[:2]), "heads traced", len({d[:2] for d in ordered})):
        readers = {side: Reader(found, layer, head, side) for side in SIDES}
        here = readings.isel(layer=layer, head=head)
        factors = [here[f"{side}_factor"].values.astype(np.float64) for side in SIDES]
        blocks = np.stack([np.arange(shown.modes)[None] == block[:, None] for block in here.block.values])
        for decision in group:
            labels = [found.labels(layer, decision.at(side), side) for side in SIDES]
            vectors = [readers[side].vectors(decision.sequence, decision.at(side)) for side in SIDES]
            divisor = found.architecture.divisors[layer]
            parts.append(_part(labels, vectors, divisor, factors, blocks.astype(float), shown.top, names))
    return ordered, parts


def _part(
    labels: list[Labels],
    vectors: list[np.ndarray],
    divisor: float,
    factors: list[np.ndarray],
    blocks: np.ndarray,
    top: int,
    names: list[str],
) -> Part:
    """One decision of components (n, H) of either side; factors (readings, H, K), blocks (readings, K, modes)."""
    whole = [x.sum(axis=0) for x in vectors]
    terms = [x @ y / divisor for x, y in zip(vectors, reversed(whole), strict=True)]
    order = [np.argsort(-np.abs(x), kind="stable") for x in terms]
    kept = [of[:top] for of in order]
    shown = [_padded(x[some], top) for x, some in zip(vectors, kept, strict=True)]
    rows = [np.concatenate([x, (y - x.sum(axis=0))[None]]) for x, y in zip(shown, whole, strict=True)]
    modes = [x @ factor for x, factor in zip(rows, factors, strict=True)]  # (readings, top + 1, K)
    terms_of_modes = [
        np.einsum("rnk,rk,rkm->nrm", x, y.sum(axis=1), blocks) / divisor
        for x, y in zip(modes, reversed(modes), strict=True)
    ]
    of_modes = np.stack(terms_of_modes)
    return Part(
        score=float(whole[0] @ whole[1] / divisor),
        labels=np.stack([_padded(np.stack(x, axis=1)[some], top, -1) for x, some in zip(labels, kept, strict=True)]),
        contribution=np.stack([_padded(x[some], top) for x, some in zip(terms, kept, strict=True)]),
        remainder=np.array([x[of[top:]].sum() for x, of in zip(terms, order, strict=True)]),
        components=np.array([len(x) for x in vectors]),
        table=rows[0] @ rows[1].T / divisor,
        contribution_of_mode=of_modes[:, :top],
        remainder_of_mode=of_modes[:, top],
        score_of_mode=of_modes[0].sum(axis=0),
        contribution_of_writer=np.stack([_by_writer(x, y, names) for x, y in zip(labels, terms, strict=True)]),
    )


def _padded(x: np.ndarray, count: int, value: float = 0) -> np.ndarray:
    return np.concatenate([x, np.full((count - len(x), *x.shape[1:]), value, x.dtype)])


def _by_writer(labels: Labels, terms: np.ndarray, names: list[str]) -> np.ndarray:
    """Terms (n,) summed by writer; NaN for those that come after the head."""
    place = {name: n for n, name in enumerate(names)}
    made = [_writer(*label) for label in zip(labels.kind, labels.layer, labels.head, strict=True)]
    summed = np.bincount([place[name] for name in made], terms, len(names))
    written = {*made}
    return np.where([name in written for name in names], summed, np.nan)


def _writer(kind: int, layer: int, head: int) -> str:
    return {"head": f"{layer}.{head}", "mlp": f"mlp {layer}"}.get(KINDS[kind], KINDS[kind] if kind < HEAD else "biases")
