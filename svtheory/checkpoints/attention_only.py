"""Attention-only: a bundle that holds its model's every weight, run as a checkpoint is (docs/bundles.md).

`x = W_E t + W_pos`, then in each layer `x += sum_h W_O (sum_j a_j (W_V x_j + b_V)) + b_O`, heads reading x as it is or
normalised, and logits `W_U x + b_U`, of x behind a final norm if there is one.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.inference import read_layers
from svtheory.checkpoints.networks import Network
from svtheory.checks import InputError, index
from svtheory.heads.bundles import HeadBundle

# the axis along which each matrix has d_model entries where it is (out, in)
MATRICES = {"W_E": -2, "W_pos": -2, "W_V": -1, "W_O": -2, "W_U": -1}
VECTORS = ("b_V", "b_O", "b_U", "norm_gain", "norm_bias", "final_gain", "final_bias")
NEEDED = ("W_E", "W_V", "W_O")
ORIENTATIONS = ("out, in", "in, out")
NORMS = ("none", "layer", "rms")
EPSILON = 1e-5
SAME = 1e-3
"""Of the largest entry of a layer's attn_in: how far what the pass gives may be from it."""


class AttentionOnly:
    """The attention-only model of a bundle; see `network`, which also checks it."""

    def __init__(self, bundle: HeadBundle):
        self._bundle = _readable(bundle)
        self._arrays = _oriented(bundle)
        self._norm = _norm(bundle)
        self.architecture = self._architecture()

    def layer(self, layer: int) -> dict[str, Any]:
        """All weights of one layer by role, as `Checkpoint.layer` has them."""
        i = index("layer", layer, self.architecture.layers)
        bundle, others = self._bundle, self._arrays
        found = {"W_Q": bundle.W_Q, "W_K": bundle.W_K, "b_Q": bundle.b_Q, "b_K": bundle.b_K, "W_V": others["W_V"]}
        found |= {"b_V": others.get("b_V"), "b_O": others.get("b_O")}
        found = {name: np.asarray(x[i], jnp.result_type(float)) for name, x in found.items() if x is not None}
        found["W_O"] = np.concatenate(list(others["W_O"][i]), axis=1)
        return found if self._norm is None else found | {"attention_norm": self._layer_norm(i)}

    def inputs(self) -> dict[str, Any]:
        """The embedding and, if learned, positions."""
        named = {"embedding": "W_E", "positions": "W_pos"}
        return {role: self._arrays[name].T for role, name in named.items() if name in self._arrays}

    def outputs(self) -> dict[str, Any]:
        """The unembedding (vocabulary, d_model), of several questions one after another; final norm and bias."""
        self.require_unembedding()
        found: dict[str, Any] = {"unembedding": self._arrays["W_U"].reshape(-1, self.architecture.d_model)}
        if "b_U" in self._arrays:
            found["b_U"] = self._arrays["b_U"].reshape(-1)
        final = {part: self._arrays[f"final_{part}"] for part in ("gain", "bias") if f"final_{part}" in self._arrays}
        return found | {"norm": final} if final else found

    def require_unembedding(self) -> None:
        """Raise InputError for a bundle without W_U."""
        if "W_U" not in self._arrays:
            raise InputError("bundle must hold W_U, the unembedding, to have logits, got one without")

    def _layer_norm(self, layer: int) -> dict[str, Any]:
        """Gain and bias of the norm before a layer's heads: none are left where they are folded."""
        D = self.architecture.d_model
        plain = {"gain": np.ones(D, jnp.result_type(float))}
        if self._bundle.scoring.folded:
            return plain
        given = {part: self._arrays[f"norm_{part}"] for part in ("gain", "bias") if f"norm_{part}" in self._arrays}
        return plain | {part: x.reshape(-1, D)[layer] for part, x in given.items()}

    def _architecture(self) -> Architecture:
        bundle, scoring = self._bundle, self._bundle.scoring
        layers, heads, d_head, d_model = bundle.W_Q.shape
        theta, tokens = scoring.frequencies, bundle.others["tokens"]
        return Architecture(
            model_type="attention-only",
            layers=layers,
            heads=heads,
            key_heads=heads,
            d_head=d_head,
            d_model=d_model,
            d_mlp=0,
            vocabulary=self._arrays["W_E"].shape[1],
            context=self._arrays["W_pos"].shape[1] if "W_pos" in self._arrays else None,
            norm=self._norm or "rms",
            epsilon=float(bundle.metadata.get("norm_epsilon", EPSILON)),
            activation="none",
            parallel=False,
            divisors=scoring.divisors,
            windows=scoring.windows,
            frequencies=((),) * layers if theta is None else tuple(tuple(map(float, of_layer)) for of_layer in theta),
            score_cap=scoring.cap,
            logit_cap=None,
            query_key_norm="none",
            embedding_scale=1.0,
            symbols=tokens.shape[2] if tokens.ndim == 3 else 1,
        )


def network(bundle: HeadBundle) -> Network:
    """The attention-only model of a bundle that holds all its weights, its tokens and what its heads read.

    Its forward pass gives the bundle's own `attn_in` to within 1e-3 of its largest entry, in every layer: a matrix that
    is the wrong way round, a norm or a bias that is missing shows there. What the last layer's heads write does not.
    Weights are float32, or float64 where JAX has x64 on.
    Raises InputError for a bundle that lacks a weight, tokens or attn_in, for what an attention-only model here cannot
    have (an MLP, query-key norms, rows paired as adjacent, heads that are not causal), and where the pass gives
    something else than attn_in.
    """
    made = AttentionOnly(bundle)
    for i, layer in enumerate(read_layers(made, bundle.others["tokens"], bundle.scoring.folded)):
        check_read(bundle, i, layer.attn_in)
    return made


def check_tokens(bundle: HeadBundle) -> None:
    """Raise InputError for tokens (sequences, positions, ...) that are not as many as attn_in has."""
    found, wanted = bundle.others["tokens"].shape, bundle.real.shape
    if len(found) > 1 and found[:2] != wanted:
        raise InputError(f"tokens must be {wanted}, as many sequences and positions as attn_in has, got {found}")


def check_read(bundle: HeadBundle, layer: int, read: Any) -> None:
    """Raise InputError unless a network's heads read, (sequences, positions, d_model), what the bundle's do."""
    assert bundle.attn_in is not None
    given = bundle.attn_in[layer][bundle.real]
    distance = float(np.abs(np.asarray(read)[bundle.real] - given).max() / np.abs(given).max())
    if not distance <= SAME:
        raise InputError(
            f"model must be that of the bundle and give the attn_in of its bundle, to {SAME:g} of the largest entry, "
            f"got {distance:.2g} in layer {layer}: look at the orientation of its matrices, and for a norm, bias or "
            "MLP that it lacks"
        )


def _readable(bundle: HeadBundle) -> HeadBundle:
    """The bundle, after a check that it is an attention-only model's with all that the pass and its check need."""
    others, scoring = bundle.others, bundle.scoring
    missing = [name for name in (*NEEDED, "tokens") if name not in others] + ["attn_in"] * (bundle.attn_in is None)
    if missing:
        raise InputError(
            f"bundle must hold every weight of an attention-only model, with tokens and attn_in, to be run, got one "
            f"without {', '.join(missing)}"
        )
    check_tokens(bundle)
    if held := [name for name in ("W_in", "W_out", "W_gate") if name in others]:
        raise InputError(f"bundle must be of an attention-only model to be run, got one with {held[0]}, of an MLP")
    for name, given, wanted in (
        ("query_key_norm", scoring.query_key_norm, "none"),
        ("rope_pairing", scoring.pairing if scoring.frequencies is not None else "half-split", "half-split"),
        ("causal", scoring.causal, True),
    ):
        if given != wanted:
            raise InputError(f"{name} must be {wanted!r} for the model of a bundle to be run, got {given!r}")
    return bundle


def _oriented(bundle: HeadBundle) -> dict[str, np.ndarray]:
    """The bundle's other weights, matrices (out, in), after a check of their shapes."""
    layers, heads, H, D = bundle.W_Q.shape
    arrays = {name: x for name, x in bundle.others.items() if np.issubdtype(x.dtype, np.floating)}
    for name in (name for name in (*MATRICES, *VECTORS) if name in arrays):
        if lost := int((~np.isfinite(arrays[name])).sum()):
            raise InputError(
                f"{name} must be finite for the model of a bundle to be run, got {lost} entries that are not"
            )
    said = bundle.metadata.get("orientation")
    if said is not None and said not in ORIENTATIONS:
        raise InputError(f"orientation must be one of {', '.join(map(repr, ORIENTATIONS))}, got {said!r}")
    matrices = {name: x for name, x in arrays.items() if name in MATRICES}

    def fits(way: str) -> bool:
        return all(x.ndim > 1 and _turned(x, way).shape[MATRICES[name]] == D for name, x in matrices.items())

    fitting = [way for way in ((said,) if said else ORIENTATIONS) if fits(way)]
    if len(fitting) != 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in matrices.items())
        wanted = "be said in metadata where every matrix is square" if fitting else f"fit d_model {D} in all matrices"
        raise InputError(f"orientation must {wanted}, 'out, in' or 'in, out', got {said!r} and {shapes}")
    made = {name: _turned(x, fitting[0]) if name in MATRICES else x for name, x in arrays.items()}
    V = made["W_E"].shape[-1]
    wanted = {"W_E": (D, V), "W_V": (layers, heads, H, D), "W_O": (layers, heads, D, H)}
    wanted |= {"b_V": (layers, heads, H), "b_O": (layers, D), "final_gain": (D,), "final_bias": (D,)}
    for name, shape in wanted.items():
        if name in made and made[name].shape != shape:
            raise InputError(f"{name} must have shape {shape}, (out, in), got {made[name].shape}")
    return {name: np.asarray(x, jnp.result_type(float)) for name, x in made.items()}


def _turned(x: np.ndarray, orientation: str) -> np.ndarray:
    return x if orientation == "out, in" else x.swapaxes(-1, -2)


def _norm(bundle: HeadBundle) -> str | None:
    """Which norm stands before heads, by the first word of metadata `norm`; None is none."""
    said = bundle.metadata.get("norm", "none")
    word = said.replace(":", " ").split()[0] if said.strip() else ""
    if word not in NORMS:
        raise InputError(f"norm must begin with one of {', '.join(map(repr, NORMS))}, got {said!r}")
    layers, D = bundle.W_Q.shape[0], bundle.W_Q.shape[-1]
    for name in ("norm_gain", "norm_bias"):
        if name in bundle.others and (word == "none" or bundle.others[name].size != layers * D):
            raise InputError(
                f"{name} must have shape {(layers, D)}, beside metadata norm 'layer' or 'rms', got "
                f"{bundle.others[name].shape} beside {said!r}"
            )
    return None if word == "none" else word
