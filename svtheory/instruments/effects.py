"""Effects: what an edit of a head changes, sequence by sequence, and what random edits change, with intervals.

Where nothing but one head's queries and keys is edited, five numbers at every position say what came of it: the weight
lost by the key that the head should find; the total variation between the two attentions; and of the next token, the
logit that the target lost over the mean logit, the divergence `KL(intact || edited)` and the loss that was gained, in
nats.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array, lax

from svtheory.checkpoints.inference import logits_of
from svtheory.checkpoints.networks import Network
from svtheory.instruments.labels import Labels

EFFECTS = ("attention", "variation", "logit", "divergence", "loss")
NULLS = ("same variance", "isotropic")
INTERVAL = 0.95
TAILS = ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)


BY_EFFECT = "by effect: a weight, a share, logits, nats, nats"
"""The unit of what is there for each of EFFECTS."""
VARIABLES: Labels = {
    "effect": "weight lost by the chosen key, total variation of attention, logit lost, divergence, or loss gained",
    "null": "random directions that others are held against",
    "sequence": "sequence of tokens",
    "effect_mean": ("effect of a removal, mean over sequences", BY_EFFECT),
    "effect_low": ("lower end of its 95 % interval", BY_EFFECT),
    "effect_high": ("upper end of its 95 % interval", BY_EFFECT),
    "effect_of_sequence": ("effect of a removal in each sequence", BY_EFFECT),
    "null_mean": ("effect of removing a random direction, mean over these and sequences", BY_EFFECT),
    "null_low": ("lower end of its 95 % interval", BY_EFFECT),
    "null_high": ("upper end of its 95 % interval", BY_EFFECT),
    "difference": ("effect less that of as many random directions", BY_EFFECT),
    "difference_low": ("lower end of its 95 % interval", BY_EFFECT),
    "difference_high": ("upper end of its 95 % interval", BY_EFFECT),
    "ratio": "effect over that of as many random directions, where theirs is above 0",
    "ratio_low": "lower end of its 95 % interval",
    "ratio_high": "upper end of its 95 % interval",
}


class Tally(NamedTuple):
    """Sums of effects over the positions of each sequence, (edits, sequences, 5), and over how many, (sequences, 5).

    intact_loss is the mean loss of the model as it is, over all targets, in nats.
    """

    sums: np.ndarray
    counts: np.ndarray
    intact_loss: float = np.nan

    @property
    def means(self) -> np.ndarray:
        """Of each sequence, NaN where nothing is looked at."""
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts[None]


def most_attended(attention: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The key that every query attends to most, (sequences, positions); -1 where it sees no other, or is padding."""
    found = attention.argmax(axis=-1)
    found[:, 0] = -1
    return np.where(real, found, -1)


def tallied(network: Network, attention: np.ndarray, after: np.ndarray, keys: np.ndarray, targets: np.ndarray) -> Tally:
    """Effects of edits, of which the first edits nothing.

    attention (edits, sequences, positions, positions); after, the residual stream at the end (edits, sequences,
    positions, d_model); keys and targets (sequences, positions), -1 where none is looked at.
    """
    sums = np.stack([_attention_lost(attention, keys), _variation(attention, keys)], axis=-1)
    s, p = np.nonzero(targets >= 0)
    at, loss = _of_tokens(network.architecture, network.outputs(), jnp.asarray(after[:, s, p]), targets[s, p])
    of_tokens = np.stack([_added(x.T, s, len(targets)) for x in np.moveaxis(np.asarray(at), 2, 0)], axis=-1)
    counts = [(x >= 0).sum(axis=1) for x in (keys, keys, targets, targets, targets)]
    summed, intact_loss = np.concatenate([sums, of_tokens], axis=-1), float(np.asarray(loss, float).mean())
    return Tally(summed, np.stack(counts, axis=-1).astype(float), intact_loss)


def _attention_lost(attention: np.ndarray, keys: np.ndarray) -> np.ndarray:
    s, p = np.nonzero(keys >= 0)
    weights = attention[:, s, p, keys[s, p]].astype(np.float64)
    return _added(weights[:1] - weights[1:], s, len(keys))


def _variation(attention: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """`sum_j |a_j - a'_j| / 2`."""
    s, p = np.nonzero(keys >= 0)
    apart = np.stack([np.abs(edited[s, p] - attention[0, s, p]).sum(axis=-1, dtype=np.float64) for edited in attention])
    return _added(apart[1:] / 2, s, len(keys))


def _added(x: np.ndarray, sequence: np.ndarray, number: int) -> np.ndarray:
    """What x (edits, n) adds up to in each sequence."""
    return np.stack([np.bincount(sequence, of, number) for of in x])


@partial(jax.jit, static_argnums=0)
def _of_tokens(a: Any, outputs: Any, after: Array, targets: Array) -> tuple[Array, Array]:
    """Logit lost, divergence and loss gained of streams (edits, n, d_model) at n targets, (n, edits - 1, 3).

    And the intact loss at each, (n,).

    Position after position, all edits at once; where a position answers several questions, one after another in the
    unembedding, each is a softmax of its own. A stream that is the intact one to the last digit has no effect.
    """

    def of(given: tuple[Array, Array]) -> tuple[Array, Array]:
        x, target = given
        logits = logits_of(a, outputs, x).reshape(len(x), -1, a.vocabulary)
        told = jax.nn.log_softmax(logits)
        divergence = (jnp.exp(told[:1]) * (told[:1] - told)).sum(axis=(1, 2))
        over_mean = logits - logits.mean(axis=-1, keepdims=True)
        over_mean, told = (y[:, target // a.vocabulary, target % a.vocabulary] for y in (over_mean, told))
        found = jnp.stack([over_mean[0] - over_mean, divergence, told[0] - told], axis=-1)
        return jnp.where((x != x[:1]).any(axis=-1, keepdims=True), found, 0)[1:], -told[0]

    return lax.map(of, (after.swapaxes(0, 1), targets))


class Compared(NamedTuple):
    """Means of effects with the ends of their intervals, each (3, ...): mean, low, high.

    effect      (3, edits, 5)
    null        (3, nulls, 5)
    difference  (3, edits, nulls, 5)
    ratio       (3, edits, nulls, 5); NaN where random directions may do nothing, their interval holding 0
    """

    effect: np.ndarray
    null: np.ndarray
    difference: np.ndarray
    ratio: np.ndarray


def compared(tally: Tally, kinds: np.ndarray, resamples: int, seed: Any) -> Compared:
    """Effects of edits (their kinds) beside those of random ones, with bootstrap intervals.

    Sequences are drawn again, all edits on the same ones, and so are the random directions of a kind among themselves:
    another user would draw others. Leading modes are held against as many random ones.
    """
    rng = np.random.default_rng(seed)
    weights = _drawn_again(len(tally.counts), resamples, rng)
    counts = np.maximum(weights @ tally.counts, np.finfo(float).tiny)  # a sample may have nothing to look at
    means = np.tensordot(weights, tally.sums, (1, 1)) / counts[:, None]
    random = {}
    for kind in (*NULLS, "as many"):
        of_kind = means[:, kinds == kind]
        again = _drawn_again(of_kind.shape[1], resamples, rng)
        random[kind] = np.einsum("rd,rdf->rf", again, of_kind) / of_kind.shape[1]
    null = np.stack([random[kind] for kind in NULLS], axis=1)
    against = np.repeat(null[:, None], len(kinds), axis=1)
    against[:, kinds == "leading modes", 0] = random["as many"][:, None]
    against[:, kinds == "leading modes", 1] = np.nan
    tiny = np.quantile(against[1:], TAILS[0], axis=0) <= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(tiny, np.nan, means[:, :, None] / against)
    return Compared(*map(_interval, (means, null, means[:, :, None] - against, ratio)))


def _drawn_again(number: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of some things is drawn, once each first, then in resamples, (1 + resamples, number)."""
    return np.concatenate([np.ones((1, number)), rng.multinomial(number, np.full(number, 1 / number), resamples)])


def _interval(x: np.ndarray) -> np.ndarray:
    """The first and the interval of the others, (3, ...)."""
    return np.stack([x[0], *np.quantile(x[1:], TAILS, axis=0)])


def labelled_effects(found: Compared) -> xr.Dataset:
    """What is compared, by name: NAME_mean or NAME, NAME_low, NAME_high."""
    axes = {"effect": ("direction",), "null": ("null",)} | dict.fromkeys(("difference", "ratio"), ("direction", "null"))
    data = {}
    for name, dims in axes.items():
        mean = f"{name}_mean" if name in ("effect", "null") else name
        for key, x in zip((mean, f"{name}_low", f"{name}_high"), getattr(found, name), strict=True):
            data[key] = ((*dims, "effect"), x)
    return xr.Dataset(data)
