"""Checkpoints: a folder as Hugging Face writes them, read layer by layer and head by head."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from svtheory.checkpoints import reader
from svtheory.checkpoints.architecture import Architecture, Place, Places, all_places
from svtheory.checkpoints.settings import flag
from svtheory.checkpoints.tensors import FLOATS, Tensors, read_json, refuse_adapter
from svtheory.checks import InputError, index
from svtheory.heads.weights import Head, Norm, fold_layer_norm, fold_rms_norm

# kept beside the weights by older versions of transformers: masks and rotary frequencies, which the config implies
BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
HEAD_WEIGHTS = ("W_Q", "W_K", "b_Q", "b_K")


class Checkpoint:
    """A model on disk; `architecture` says what it is, and weights are read when asked for.

    They are float32, or float64 where JAX has x64 on. Opening it reads config.json and the headers of the safetensors
    files, and checks that the tensors of all layers are there with the shapes that the config implies, and no others;
    nothing is unpickled, and no weight is read. A folder without an unembedding will do: a base model, a classifier. Of
    a model that reads images too, `config` and weights are those of the text part.
    Raises InputError for a folder that is no checkpoint, an unknown model_type, settings that are not supported or do
    not fit the tensors, and a file that is broken or missing.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        refuse_adapter(self.folder)
        self.config, self._description = reader.settled(read_json(self.folder / "config.json"))
        self.architecture = reader.architecture(self.config, self._description)
        self._tensors = Tensors(self.folder, self.config)
        self._tied = flag(self.config, "tie_word_embeddings")
        self._ends = self._found_ends()
        places = [*all_places(self._ends)]
        for i in range(self.architecture.layers):
            places += all_places(self._layer(i))
        for place in places:
            self._tensors.check(place)
        self._refuse_unread({place.name for place in places})

    @property
    def weights_dtype(self) -> str:
        """The coarsest precision in which queries' and keys' weights are stored: their rounding, wherever they go."""
        read = [self._layer(i)[name] for i in range(self.architecture.layers) for name in ("W_Q", "W_K")]
        return min(map(self._tensors.dtype, all_places(read)), key=[*FLOATS.values()].index)

    @property
    def normalises(self) -> bool:
        """Whether heads read the residual stream normalised."""
        return "attention_norm" in self._layer(0)

    def layer(self, layer: int) -> dict[str, Any]:
        """All weights of one layer by role, matrices (out, in).

        attention_norm, mlp_norm, of what attention and the MLP read, attention_post_norm, mlp_post_norm, of what they
        write, those that the model has: gain and, for a LayerNorm, bias (d_model,); W_Q (heads, d_head, d_model), W_K
        and W_V (key_heads, d_head, d_model); W_O (d_model, heads * d_head); W_in (d_mlp, d_model), in a gated MLP also
        W_gate; W_out (d_model, d_mlp). A bias b_... stands beside its W_... if the model has it, and gains q_gain
        (heads, d_head) and k_gain (key_heads, d_head) if queries and keys are normalised.
        Raises InputError for a layer out of range and for weights that are not finite.
        """
        return self._read(self._layer(index("layer", layer, self.architecture.layers)))

    def inputs(self) -> dict[str, Any]:
        """What a token becomes: the embedding (vocabulary, d_model) and, if learned, positions (context, d_model)."""
        names = [name for name in ("embedding", "positions") if name in self._ends]
        return {name: self._read(self._ends[name]) for name in names}

    def require_unembedding(self) -> None:
        """Raise InputError for a checkpoint without an unembedding: a base model, or one with another task's head."""
        if "unembedding" not in self._ends:
            raise InputError(
                f"the checkpoint must hold lm_head.weight, its unembedding, to have logits, got {str(self.folder)!r}"
            )

    def outputs(self) -> dict[str, Any]:
        """What logits are made of: the final norm and the unembedding (vocabulary, d_model).

        Where tie_word_embeddings is set but the file holds an unembedding that is not the embedding, it is the file's,
        as in transformers 5 (4 took the embedding), with a warning.
        Raises InputError for a checkpoint without an unembedding.
        """
        self.require_unembedding()
        made = self._read({name: self._ends[name] for name in ("norm", "unembedding")})
        embedding = self._ends["embedding"]
        separate = embedding != self._ends["unembedding"]
        if self._tied and separate and not np.array_equal(made["unembedding"], self._read(embedding)):
            warnings.warn(
                f"tie_word_embeddings is set in config.json, but {str(self.folder)!r} holds an unembedding of its own: "
                "logits are made with that one",
                stacklevel=3,
            )
        return made

    def ends(self) -> dict[str, Any]:
        """`inputs` and `outputs`: the embedding and unembedding, final norm and, if learned, positions."""
        return self.inputs() | self.outputs()

    def gains(self, layer: int) -> dict[str, Any]:
        """q_gain and k_gain of one layer as `layer` has them; none where queries and keys are not normalised."""
        places = self._layer(index("layer", layer, self.architecture.layers))
        return self._read({role: part for role, part in places.items() if role.endswith("gain")})

    def head(self, layer: int, head: int, folded: bool = False, *, norms: bool = True) -> Head:
        """One query head with the key head of its group; only their rows are read.

        As stored it reads the normalised residual stream after gain and bias; `folded`, before them (see Head). One
        that reads the residual stream as it is has nothing to fold. Where queries and keys are normalised over all
        heads of a layer, the rows of all of them are read, unless `norms` are left out.
        Raises InputError for a layer or head out of range and for weights that are not finite.
        """
        a, places = self.architecture, self._layer(index("layer", layer, self.architecture.layers))
        head = index("head", head, a.heads)
        own = {"Q": head, "K": head * a.key_heads // a.heads}
        names = [name for name in HEAD_WEIGHTS if name in places]
        weights = {name: self._read(places[name][own[name[-1]]]) for name in names}
        of_sides = {f"{side}_norm": self._norm(places, side, own) for side in ("query", "key")} if norms else {}
        scoring = {"divisor": a.divisors[layer], "window": a.windows[layer], "cap": a.score_cap}
        made = Head(**weights, **of_sides, **rotation(a, layer), **scoring)
        if not folded or "attention_norm" not in places:
            return made
        norm = self._read(places["attention_norm"])
        return fold_rms_norm(made, **norm) if a.norm == "rms" else fold_layer_norm(made, **norm)

    def _norm(self, places: Places, side: str, own: dict[str, int]) -> Norm | None:
        """How the head `own` normalises its queries or keys (T23)."""
        a, letter = self.architecture, {"query": "Q", "key": "K"}[side]
        if a.query_key_norm == "none":
            return None
        gain = self._read(places[f"{side[0]}_gain"][own[letter]])
        over = np.concatenate(self._read(places[f"W_{letter}"])) if a.query_key_norm == "all heads" else None
        return Norm(gain, a.epsilon, over)

    def _layer(self, layer: int) -> Places:
        return reader.layer_places(self.architecture, self._description, layer, self.config)

    def _found_ends(self) -> Places:
        """Where embedding and unembedding lie: of tied ones one may be missing; without ties, the unembedding."""
        ends = reader.end_places(self.architecture, self._description)
        both = ("embedding", "unembedding")
        held = [ends[name] for name in both if ends[name] in self._tensors]
        if self._tied and len(held) == 1:
            return ends | dict.fromkeys(both, held[0])
        return ends if ends["unembedding"] in self._tensors else {k: v for k, v in ends.items() if k != "unembedding"}

    def _refuse_unread(self, read: set[str]) -> None:
        """Raise InputError for a tensor of a layer, or of the unembedding, that the forward pass would ignore."""
        for name in self._tensors:
            inside = name.startswith((f"{self._description.prefix}.", "lm_head."))
            if inside and name not in read and not name.endswith(BUFFERS):
                raise InputError(f"the checkpoint must hold no tensor that config.json gives no place, got {name}")

    def _read(self, places: Places | list[Place] | Place) -> Any:
        """The weights at these places, by role; those of a list, one a head, are stacked."""
        if isinstance(places, Place):
            stored = self._tensors.read(places)
            return stored + 1 if places.above_one else stored
        if isinstance(places, list):
            return np.stack([self._read(place) for place in places])
        return {role: self._read(part) for role, part in places.items()}


def rotation(a: Architecture, layer: int) -> dict[str, Any]:
    """How heads of a layer are rotated: frequencies, if any, half-split."""
    theta = a.frequencies[layer]
    return {"frequencies": np.array(theta, np.float32) if theta else None, "pairing": "half-split"}
