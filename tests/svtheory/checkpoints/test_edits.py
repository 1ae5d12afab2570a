"""A pass that is edited from a layer on is that of a model with other weights; each kind of layer is compiled once."""

import dataclasses

import numpy as np
import pytest
from other_models import OTHERS
from other_models import weights as other_weights
from small_models import LLAMA, V, weights, write

from svtheory import read_model
from svtheory.checkpoints import Added, Checkpoint, finish, forward, inference, read_layers, run_edited
from svtheory.heads.rescaled import rescaled, without_norms
from svtheory.instruments import cause

SEQUENCES, N, HEADS = 3, 7, np.array([3, 1])
TOKENS = np.random.default_rng(2).integers(0, V, size=(SEQUENCES, N))


class Changed:
    """A checkpoint with a key head for every query head, and other queries and keys in one layer."""

    def __init__(self, checkpoint, layer, changes):
        a = checkpoint.architecture
        self._given, self._at, self._changes = checkpoint, layer, changes
        self.architecture = dataclasses.replace(a, key_heads=a.heads)
        self.inputs, self.outputs = checkpoint.inputs, checkpoint.outputs
        self.require_unembedding = checkpoint.require_unembedding

    def layer(self, layer):
        w = self._given.layer(layer)
        w |= {name: np.repeat(w[name], 2, axis=0) for name in ("W_K", "W_V")}
        if layer == self._at:
            for name, change in self._changes.items():
                w[name][HEADS] += change
        return w


def edited(checkpoint, layer, seed):
    """Two edits of a layer's heads that weights could make, the changes of these, and what the pass then gives."""
    given = list(read_layers(checkpoint, TOKENS, attention=False))[layer]
    rng, (H, D) = np.random.default_rng(seed), checkpoint.layer(layer)["W_Q"].shape[1:]
    changes = [{name: rng.normal(size=(2, H, D), scale=0.2) for name in ("W_Q", "W_K")} for _ in range(2)]
    read = np.asarray(given.attn_in)
    edits = [
        Added(HEADS, *(np.einsum("spd,hed->shpe", read, x).astype(np.float32) for x in change.values()))
        for change in changes
    ]
    return changes, run_edited(checkpoint, layer, given.before, edits)


def test_an_edit_is_other_weights(tmp_path):
    """Rotary heads that share their keys: of one of a pair alone, the key is another; then the layers behind."""
    checkpoint = Checkpoint(write(tmp_path, LLAMA, weights(LLAMA)))
    changes, passed = edited(checkpoint, 0, 5)
    assert passed.attention.shape == (2, SEQUENCES, 2, N, N)
    for change, attention, after in zip(changes, passed.attention, passed.after, strict=True):
        wanted = forward(Changed(checkpoint, 0, change), TOKENS)
        assert np.abs(attention - wanted.attention[0][:, HEADS]).max() <= 1e-5
        assert np.abs(np.asarray(finish(checkpoint, after)) - wanted.logits).max() <= 1e-4


def test_a_kind_of_layer_is_traced_once(tmp_path, monkeypatch):
    """Plain and edited: neither the number of edits nor of layers, nor which heads they are of, makes another one."""
    checkpoint, traced = Checkpoint(write(tmp_path, LLAMA, weights(LLAMA))), []
    attend = inference._attend
    monkeypatch.setattr(inference, "_attend", lambda *given: traced.append(1) or attend(*given))
    inference._layer.clear_cache()
    edited(checkpoint, 0, 1)
    assert len(traced) == 2
    edited(checkpoint, 0, 2)
    edited(checkpoint, 1, 3)
    assert len(traced) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "olmo2"])
def test_scales_of_query_key_norms_are_held(tmp_path, kind):
    """Heads that normalise are bilinear in tokens that each rescales: these lose a mode, the scale does not move."""
    folder = write(tmp_path, OTHERS[kind], other_weights(kind))
    bundle = read_model(folder, tokens=TOKENS)
    found = cause.survey(bundle, Checkpoint(folder), cause.Settings(heads=("1.2",), modes=1, draws=2, resamples=100))
    plain, scales = without_norms(bundle)
    head, at = plain.head(1, 2), np.arange(N)
    r, s = rescaled(bundle.attn_in[1], type(scales)(*(x[1, 2] for x in scales)))
    there = found.sel(layer=1, head=2, direction="mode 1")
    weights_of = []
    for tokens in ((r, s), _without_mode(head, r, s)):
        q, k = (np.asarray(x, np.float32) for x in tokens)
        scores = np.asarray(head.queries(q, at)) @ np.asarray(head.keys(k, at)).swapaxes(1, 2) / head.divisor
        scores = np.where(np.tri(N, dtype=bool)[None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights_of.append(weights / weights.sum(axis=-1, keepdims=True))
    moved = np.abs(weights_of[0] - weights_of[1]).sum(axis=-1)[:, 1:].mean(axis=1) / 2
    np.testing.assert_allclose(there.effect_of_sequence.sel(effect="variation"), moved, atol=2e-4)
    assert moved.max() > 0.01


def _without_mode(head, r, s):
    """Queries and keys whose first mode has its mean everywhere, by an SVD of their own moments, in float64."""
    W = np.asarray(head.W_Q, float).T @ np.asarray(head.W_K, float)
    sides = []
    for x in (r, s):  # neither is centred: no bias, and keys turn
        rows = x.reshape(-1, x.shape[-1]).astype(float)
        values, axes = np.linalg.eigh(rows.T @ rows / len(rows))
        kept = values > 1e-9 * values[-1]
        sides.append((axes[:, kept] * values[kept] ** 0.5, axes[:, kept] / values[kept] ** 0.5))
    left, _, right = np.linalg.svd(sides[0][0].T @ W @ sides[1][0])
    out = []
    for x, (root, inverse), vector in zip((r, s), sides, (left[:, 0], right[0]), strict=True):
        coordinates = x @ (inverse @ vector)
        out.append(x - (coordinates - coordinates.mean())[..., None] * (root @ vector))
    return out
