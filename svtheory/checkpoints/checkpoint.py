"""Checkpoints: a folder as Hugging Face writes them, read layer by layer and head by head."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from svtheory.checkpoints import gpt2, llama, neox
from svtheory.checkpoints.architecture import Architecture, Place, Places
from svtheory.checkpoints.tensors import Tensors, read_json
from svtheory.checks import index, one_of
from svtheory.heads.weights import Head, fold_layer_norm, fold_rms_norm

READERS: Mapping[str, ModuleType] = {"gpt2": gpt2, "gpt_neox": neox, "llama": llama}
HEAD_WEIGHTS = ("W_Q", "W_K", "b_Q", "b_K")


class Checkpoint:
    """A model on disk; `architecture` says what it is, and weights are read when asked for, as float32.

    Opening it reads config.json and the headers of the safetensors files, and checks that all tensors are there with
    the shapes that the config implies; nothing is unpickled, and no weight is read.
    Raises InputError for a folder that is no checkpoint, an unknown model_type, settings that are not supported or do
    not fit the tensors, and a file that is broken or missing.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = read_json(self.folder / "config.json")
        kind = one_of("model_type of config.json", self.config.get("model_type"), tuple(READERS))
        self._reader = READERS[kind]
        self.architecture = self._reader.architecture(self.config)
        self._tensors = Tensors(self.folder)
        for places in (self._ends(), *map(self._layer, range(self.architecture.layers))):
            self._each(self._tensors.check, places)

    def layer(self, layer: int) -> dict[str, Any]:
        """All weights of one layer by role, matrices (out, in).

        attention_norm, mlp_norm: gain and, for a LayerNorm, bias (d_model,); W_Q (heads, d_head, d_model), W_K and W_V
        (key_heads, d_head, d_model); W_O (d_model, heads * d_head); W_in (d_mlp, d_model), in a gated MLP also W_gate;
        W_out (d_model, d_mlp). A bias b_... stands beside its W_... if the model has it.
        Raises InputError for a layer out of range and for weights that are not finite.
        """
        return self._each(self._tensors.read, self._layer(index("layer", layer, self.architecture.layers)))

    def ends(self) -> dict[str, Any]:
        """The embedding and unembedding (vocabulary, d_model), final norm and, if learned, positions."""
        return self._each(self._tensors.read, self._ends())

    def head(self, layer: int, head: int, folded: bool = False) -> Head:
        """One query head with the key head of its group; only their rows are read.

        As stored it reads the normalised residual stream after gain and bias; `folded`, before them (see Head).
        Raises InputError for a layer or head out of range and for weights that are not finite.
        """
        a, places = self.architecture, self._layer(index("layer", layer, self.architecture.layers))
        head = index("head", head, a.heads)
        own = {"Q": head, "K": head * a.key_heads // a.heads}
        names = [name for name in HEAD_WEIGHTS if name in places]
        weights = {name: self._tensors.read(places[name][own[name[-1]]]) for name in names}
        made = Head(**weights, **head_options(a, layer))
        if not folded:
            return made
        norm = self._each(self._tensors.read, places["attention_norm"])
        return fold_rms_norm(made, **norm) if a.norm == "rms" else fold_layer_norm(made, **norm)

    def _layer(self, layer: int) -> Places:
        return self._reader.layer_places(self.architecture, layer, self.config)

    def _ends(self) -> Places:
        return self._reader.end_places(self.architecture, self.config)

    def _each(self, function: Any, places: Any) -> Any:
        """`function` of every Place; what it returns for a list of heads is stacked."""
        if isinstance(places, Place):
            return function(places)
        if isinstance(places, list):
            return np.stack([function(place) for place in places])
        return {role: self._each(function, place) for role, place in places.items()}


def head_options(a: Architecture, layer: int) -> dict[str, Any]:
    """What a Head of this layer has beside its weights: rotary frequencies, half-split, and divisor."""
    frequencies = np.array(a.frequencies, np.float32) if a.frequencies else None
    return {"frequencies": frequencies, "pairing": "half-split", "divisor": a.divisors[layer]}
