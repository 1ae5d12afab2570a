"""Edits: what a model does when some heads of a layer make other queries and keys, run on from that layer."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from svtheory.checkpoints.inference import Added, run_layer
from svtheory.checkpoints.networks import Network
from svtheory.progress import track


class EditedPass(NamedTuple):
    """What a model makes of sequences under each of several edits.

    attention  of the heads edited, query by key, shape (edits, sequences, heads edited, positions, positions)
    after      the residual stream behind the last layer, shape (edits, sequences, positions, d_model)
    """

    attention: np.ndarray
    after: np.ndarray


def run_edited(network: Network, layer: int, before: Array, edits: Sequence[Added], doing: str = "") -> EditedPass:
    """Run a network on from the residual stream before a layer (sequences, positions, d_model), once for each edit.

    Layers before that one are not run again, and values are untouched: what an edit changes is where the heads that it
    names attend. Every edit goes through the same compiled program of each kind of layer, and each layer's weights are
    read once. Edits name as many heads each. In the dtype of `before`.
    Raises InputError for a layer out of range.
    """
    a, weights = network.architecture, jax.device_put(network.layer(layer))
    made = [run_layer(a, layer, weights, before, added=edit) for edit in track(edits, doing)]
    attention, streams = np.stack([np.asarray(one.attention) for one in made]), [one.after for one in made]
    del made
    for i in range(layer + 1, a.layers):
        weights = jax.device_put(network.layer(i))
        streams = [run_layer(a, i, weights, x, attention=False).after for x in streams]
    return EditedPass(attention, np.stack(streams))
