"""Components: a head's query and key as sums over what earlier parts of the model wrote into the residual stream.

Before layer l the stream at a position is a sum: the embedding and the position; of each earlier layer, what every head
took from every source position j, `a_j W_O W_V x_j`, what the biases of values and outputs add, what the MLP makes and
its bias. A head reads it through a norm whose scale is held at its value, so that reading is linear, and so are its
query and key, whose own norms are held likewise (T23):

    q = R_p t s E sum_c c + bias,    E = diag(gain_q) W_Q diag(gain) C,

C the LayerNorm's centring, s and t the held scales. Norms behind attention and MLPs are held too. The norm's bias and
the head's own, `W_Q beta + b_Q`, are the last component. Biases that a model does not have, or that are 0, are no
components. Vectors are float64, but what heads took is mapped in the dtype of the weights, as in the pass.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svtheory.checkpoints.architecture import Architecture
from svtheory.checkpoints.attention_only import check_read
from svtheory.checkpoints.checkpoint import rotation
from svtheory.checkpoints.inference import run_layer, start
from svtheory.checkpoints.networks import Network
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.weights import Head
from svtheory.progress import track

KINDS = ("embedding", "position", "head", "attention bias", "mlp", "mlp bias", "bias")
SIDES = {"query": "Q", "key": "K"}
DROPPED = ("W_V", "W_in", "W_gate", "W_out", "b_in", "b_gate", "mlp_norm")
"""Of a layer's weights, those that its record needs no more."""


class Labels(NamedTuple):
    """What the components at a position are, (n,) each: KINDS by number, and -1 for a place that one does not have.

    layer, head  of what wrote it
    source       the position from which a head took it
    """

    kind: np.ndarray
    layer: np.ndarray
    head: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Record:
    """What one layer did with sequences (S): its weights without the MLP's, the stream before it, what it wrote.

    before (S, T, D), attention (S, heads, T, T), values (S, key_heads, T, H) without their bias, mixed and hidden
    (S, T, D), what attention and the MLP made before norms behind them; hidden is None without an MLP.
    """

    weights: dict[str, Any]
    before: np.ndarray
    attention: np.ndarray
    values: np.ndarray
    mixed: np.ndarray
    hidden: np.ndarray | None

    @cached_property
    def biases(self) -> tuple[bool, bool]:
        """Whether attention adds a bias, of values, outputs or the norm behind, and whether the MLP does."""
        w = self.weights
        return _biased(w, "attention_post_norm", "b_V", "b_O"), _biased(w, "mlp_post_norm", "b_out")

    def side_bias(self, side: str) -> bool:
        """Whether heads read a bias on a side, of their own or of the norm before."""
        return _biased(self.weights, "attention_norm", f"b_{SIDES[side]}")


@dataclass(frozen=True)
class Recorded:
    """A network's pass over the tokens of a bundle: what its components are made of.

    embedding (S, T, D) and positions (T, D), or None, are the parts of the stream before the first layer.
    """

    architecture: Architecture
    embedding: np.ndarray
    positions: np.ndarray | None
    layers: list[Record]

    @cached_property
    def turns(self) -> list[np.ndarray | None]:
        """Of each layer the matrices `R_p^T` of all positions, (T, H, H); None where it does not rotate."""
        a, made = self.architecture, {}
        for i, theta in enumerate(a.frequencies):
            if theta and theta not in made:
                made[theta] = _turns(
                    Head(*(self.layers[i].weights[f"W_{side}"][0] for side in "QK"), **rotation(a, i)), self
                )
        return [made.get(theta) for theta in a.frequencies]

    def labels(self, layer: int, position: int, side: str) -> Labels:
        """What the components are that a side of a layer's heads reads at a position, as `Reader.vectors` has them."""
        learned, mlps = self.positions is not None, self.layers[0].hidden is not None
        before, own = tuple(record.biases for record in self.layers[:layer]), self.layers[layer].side_bias(side)
        return _labels(layer, position, self.architecture.heads, learned, mlps, before, own)


def recorded(network: Network, bundle: HeadBundle) -> Recorded:
    """Run a network on the tokens of a bundle and keep what its components are made of, in this machine's memory.

    Raises InputError for tokens that it cannot read, and where its heads then read something else than the bundle's.
    """
    a, tokens = network.architecture, bundle.others["tokens"]
    x = start(network, tokens)
    learned = network.inputs().get("positions")
    positions = None if learned is None else np.asarray(learned[: x.shape[1]], np.float64)
    embedding = np.asarray(x, np.float64) - (0 if positions is None else positions)
    layers = []
    for i in track(range(a.layers), "layers recorded"):
        weights = network.layer(i)
        made = run_layer(a, i, weights, x, bundle.scoring.folded, attention=True, parts=True)
        check_read(bundle, i, made.attn_in)
        layers.append(_record(a, weights, made))
        x = made.after
    return Recorded(a, embedding, positions, layers)


def _record(a: Architecture, weights: dict[str, Any], made: Any) -> Record:
    parts = {name: np.asarray(x) for name, x in made.parts.items()}
    values = parts["values"]
    if "b_V" in weights:
        values = values - weights["b_V"][None, :, None, :]
    kept = {name: x for name, x in weights.items() if name not in DROPPED}
    return Record(
        kept, np.asarray(made.before), np.asarray(made.attention), values, parts["mixed"], parts.get("hidden")
    )


def _turns(head: Head, found: Recorded) -> np.ndarray:
    T, H = found.embedding.shape[1], found.architecture.d_head
    basis = jnp.broadcast_to(jnp.eye(H, dtype=head.W_Q.dtype), (T, H, H))
    return np.asarray(_rotated(head, basis, jnp.arange(T)[:, None]), np.float64)


_rotated = jax.jit(Head.rotated)


@lru_cache(maxsize=1024)
def _labels(
    layer: int, position: int, heads: int, learned: bool, mlps: bool, biases: tuple[tuple[bool, bool], ...], own: bool
) -> Labels:
    rows = [(0, -1, -1, -1)] + [(1, -1, -1, -1)] * learned
    for i, (attention, mlp) in enumerate(biases):
        rows += [(2, i, h, j) for h in range(heads) for j in range(position + 1)] + [(3, i, -1, -1)] * attention
        rows += [(4, i, -1, -1)] * mlps + [(5, i, -1, -1)] * mlp
    return Labels(*np.array(rows + [(6, layer, -1, -1)] * own).T)


def _biased(w: dict[str, Any], norm: str, *names: str) -> bool:
    given = w.get(norm, {}).get("bias", 0), *(w.get(name, 0) for name in names)
    return any(bool(np.any(x)) for x in given)


class Reader:
    """What one side of a head makes of components: linear maps into its queries or keys."""

    def __init__(self, found: Recorded, layer: int, head: int, side: str):
        self._found, self._layer, self._biased = found, layer, found.layers[layer].side_bias(side)
        a, w, letter = found.architecture, found.layers[layer].weights, SIDES[side]
        own = head if letter == "Q" else head * a.key_heads // a.heads
        W, norm = w[f"W_{letter}"][own].astype(np.float64), w.get("attention_norm", {})
        self._constant = W @ norm["bias"] if "bias" in norm else np.zeros(len(W))
        if f"b_{letter}" in w:
            self._constant = self._constant + w[f"b_{letter}"][own]
        self._over = self._measured(W, letter)
        gain = w[f"{letter.lower()}_gain"][own].astype(np.float64) if a.query_key_norm != "none" else np.ones(len(W))
        self._constant, E = gain * self._constant, gain[:, None] * W
        self._E = _through(a, w.get("attention_norm"), E)
        self._writers = [self._of_layer(found.layers[i]) for i in range(layer)]

    def vectors(self, sequence: int, position: int) -> np.ndarray:
        """What the side makes of each component at a position, turned to it, (n, H), in the order of `labels`."""
        found, a = self._found, self._found.architecture
        x = found.layers[self._layer].before[sequence, position]
        s = _scale(a, found.layers[self._layer].weights.get("attention_norm"), x)
        stream = [self._E @ found.embedding[sequence, position]]
        stream += [] if found.positions is None else [self._E @ found.positions[position]]
        parts = [np.stack(stream), *(self._written(i, sequence, position) for i in range(self._layer))]
        t = self._norm_scale(sequence, position)
        made = t * np.concatenate([s * np.concatenate(parts), *([self._constant[None]] if self._biased else [])])
        turn = found.turns[self._layer]
        return made if turn is None else made @ turn[position]

    def _of_layer(self, record: Record) -> dict[str, np.ndarray]:
        """What the side makes of a unit of what each head mixes (heads, H', H), and of the biases of a layer."""
        a, w = self._found.architecture, record.weights
        heads = _through(a, w.get("attention_post_norm"), self._E)
        made = {"heads": _by_head(heads.astype(w["W_O"].dtype) @ w["W_O"], a.heads)}
        made["bias"] = heads @ w["b_O"] if "b_O" in w else np.zeros(len(heads))
        if "b_V" in w:
            made["bias"] = made["bias"] + np.einsum(
                "nek,ne->k", made["heads"], np.repeat(w["b_V"], a.heads // a.key_heads, 0)
            )
        made["mlp"] = _through(a, w.get("mlp_post_norm"), self._E)
        return made

    def _written(self, i: int, sequence: int, position: int) -> np.ndarray:
        """What the side makes of what layer i wrote at a position, (components, H)."""
        found, maps = self._found.layers[i], self._writers[i]
        a, w, seen = self._found.architecture, found.weights, slice(position + 1)
        values = np.repeat(found.values[sequence, :, seen], a.heads // a.key_heads, axis=0)
        taken = found.attention[sequence, :, position, seen, None] * values
        behind = w.get("attention_post_norm")
        s = _scale(a, behind, found.mixed[sequence, position])
        rows = [s * (taken @ maps["heads"]).reshape(-1, len(self._E)).astype(np.float64)]
        attention, mlp = found.biases
        rows += [(s * maps["bias"] + self._shift(behind))[None]] if attention else []
        if found.hidden is not None:
            made, bias = found.hidden[sequence, position].astype(np.float64), w.get("b_out", np.zeros(a.d_model))
            behind = w.get("mlp_post_norm")
            s = _scale(a, behind, made)
            rows.append((s * maps["mlp"] @ (made - bias))[None])
            rows += [(s * maps["mlp"] @ bias + self._shift(behind))[None]] if mlp else []
        return np.concatenate(rows)

    def _shift(self, norm: dict[str, Any] | None) -> Any:
        """What the side makes of the bias of a norm behind a part."""
        return 0 if norm is None or "bias" not in norm else self._E @ norm["bias"]

    def _measured(self, W: np.ndarray, letter: str) -> np.ndarray | None:
        """U of a query-key norm, whose mean square it divides by."""
        a = self._found.architecture
        if a.query_key_norm == "none":
            return None
        every = self._found.layers[self._layer].weights[f"W_{letter}"]
        return W if a.query_key_norm == "per head" else np.concatenate(list(every)).astype(np.float64)

    def _norm_scale(self, sequence: int, position: int) -> float:
        """The held scale of a query-key norm, 1 without one."""
        if self._over is None:
            return 1.0
        record, a = self._found.layers[self._layer], self._found.architecture
        read = _normalised(a, record.weights.get("attention_norm"), record.before[sequence, position])
        return float(1 / np.sqrt(((self._over @ read) ** 2).mean() + a.epsilon))


def _by_head(maps: np.ndarray, heads: int) -> np.ndarray:
    """(H, heads * H') as (heads, H', H)."""
    return np.moveaxis(maps.reshape(len(maps), heads, -1), 0, 2)


def _through(a: Architecture, norm: dict[str, Any] | None, E: np.ndarray) -> np.ndarray:
    """A map E (H, D) of what a norm gives as one of what it is given, but for the held scale."""
    if norm is None:
        return E
    E = E * norm["gain"]
    return E - E.mean(axis=1, keepdims=True) if a.norm == "layer" else E


def _scale(a: Architecture, norm: dict[str, Any] | None, x: np.ndarray) -> float:
    """What a norm multiplies x (D,) by; 1 without one."""
    if norm is None:
        return 1.0
    x = x.astype(np.float64)
    x = x - x.mean() if a.norm == "layer" else x
    return float(1 / np.sqrt((x**2).mean() + a.epsilon))


def _normalised(a: Architecture, norm: dict[str, Any] | None, x: np.ndarray) -> np.ndarray:
    """What a norm makes of x (D,)."""
    if norm is None:
        return x.astype(np.float64)
    centred = x - x.mean() if a.norm == "layer" else x
    return centred * _scale(a, norm, x) * norm["gain"] + norm.get("bias", 0)
