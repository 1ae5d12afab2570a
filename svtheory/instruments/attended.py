"""Attended: the attention that every head pays in the first sequences, for a page to draw."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.decomposition import attention_weights, capped, visible_keys
from svtheory.heads.rescaled import TokenScales, rescaled, without_norms
from svtheory.heads.weights import Head
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.survey import PLACE, over_heads, read_inputs
from svtheory.numerics import exact_products

POSITIONS = 64
"""Positions of a sequence, at most: a page of more could not be opened."""


VARIABLES: Labels = {
    "attention": "weight of a key in a query's attention; NaN of padding",
    "mask": "whether a position holds a token",
    "token": "token at a position, by its number",
    "window": ("how many keys a query sees, its own position among them, by layer", "positions"),
    "length": ("tokens of each sequence, of those too that are not drawn", "tokens"),
}


def survey(bundle: HeadBundle, sequences: int) -> xr.Dataset:
    """`attention` (layer, head, sequence, query, key) in the first sequences, of their first POSITIONS.

    Of queries that are padding it is NaN. `window` (layer) is how many keys a query sees, and `token` (sequence,
    position, ...) are the tokens, where the bundle has them. Raises InputError for a bundle without attn_in.
    """
    read = read_inputs(bundle)[:, :sequences, :POSITIONS]
    plain, scales = without_norms(bundle)
    some = None if scales is None else TokenScales(*(x[:, :, :sequences, :POSITIONS] for x in scales))
    axes = {"attention": ("sequence", "query", "key")}
    found = over_heads(_attention, plain, axes, (read,), (some,), doing="attention")
    shape = read.shape[1:3]
    real = bundle.real[: shape[0], : shape[1]]
    found["attention"] = found.attention.where(xr.DataArray(real, dims=("sequence", "query")))
    found["mask"] = ("sequence", "position"), real
    found["window"] = "layer", [window or bundle.real.shape[1] for window in bundle.scoring.windows]
    found["length"] = "row", bundle.real.sum(axis=1)
    tokens: Any = bundle.others.get("tokens")
    if tokens is not None and tokens.shape[:2] == bundle.real.shape:
        dims = ("sequence", "position", "symbol")[: tokens.ndim]
        found["token"] = dims, np.asarray(tokens[: shape[0], : shape[1]])
    return labelled(found.assign_attrs(bundle.metadata), VARIABLES)


def strongest(attended: xr.Dataset, count: int) -> np.ndarray:
    """Decisions, rows of layer, head, sequence, query and key, so many of each head in each sequence, at most.

    Of every query the key that it attends most, position 0 left out, where many heads attend if they find nothing; of
    these the queries whose weight there is most above an even share.
    """
    weights = np.nan_to_num(attended.attention.transpose(*PLACE, "sequence", "query", "key").values[..., 1:, 1:])
    key = weights.argmax(axis=-1)
    lead = weights.max(axis=-1) - 1 / np.arange(2, 2 + weights.shape[-2])
    found = []
    for at in np.ndindex(*weights.shape[:3]):
        chosen = [q for q in np.argsort(-lead[at], kind="stable")[:count] if lead[at][q] > 0]
        found += [(*at, q + 1, key[at][q] + 1) for q in chosen or [int(lead[at].argmax())] if weights[at][q].any()]
    return np.array(found, int).reshape(-1, 5)


@exact_products
def _attention(head: Head, tokens: Array, scales: TokenScales | None) -> dict[str, Array]:
    """The attention of a head without norms in contexts (sequences, positions, D)."""
    (r, s), at = rescaled(tokens, scales), jnp.arange(tokens.shape[1])
    scores = jnp.einsum("sqh,skh->sqk", head.queries(r, at), head.keys(s, at))
    visible = jnp.broadcast_to(visible_keys(head, at, len(at)), scores.shape)
    return {"attention": attention_weights(capped(scores / head.divisor, head.cap), visible)}
