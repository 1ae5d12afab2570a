"""Components of queries and keys are what a naive computation of each, held scales among them, says they are."""

import numpy as np
import other_models
import pytest
import small_models
from other_models import OTHERS
from small_models import CONFIGS, V, write
from test_attention_only import HEADS, LAYERS, TOKENS, H, made, weights

from svtheory import read_model
from svtheory.checkpoints import Checkpoint, Reader, network, recorded
from svtheory.checkpoints.components import KINDS
from svtheory.instruments import trace

SEQUENCES = np.random.default_rng(1).integers(0, V, size=(2, 9))


def naive_components(w, tokens, position):
    """What heads of the last layer of two read at a position, component by component, (n, D), in float64, by name."""
    w = {name: x.astype(float) for name, x in w.items()}
    x = w["W_E"][:, tokens].T + w["W_pos"].T[: len(tokens)]
    parts = {("embedding", -1, -1): w["W_E"][:, tokens[position]], ("position", -1, -1): w["W_pos"][:, position]}
    centred = x - x.mean(axis=1, keepdims=True)
    read = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * w["norm_gain"][0] + w["norm_bias"][0]
    for h in range(HEADS):
        q, k = (read @ w[f"W_{side}"][0, h].T + w[f"b_{side}"][0, h] for side in "QK")
        scores = (q[position] @ k.T / np.sqrt(H))[: position + 1]
        a = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        for j in range(position + 1):
            parts["head", h, j] = a[j] * w["W_O"][0, h] @ w["W_V"][0, h] @ read[j]
    parts["attention bias", -1, -1] = w["b_O"][0] + sum(w["W_O"][0, h] @ w["b_V"][0, h] for h in range(HEADS))
    x = sum(parts.values())
    deviation = np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return {name: (part - part.mean()) / deviation * w["norm_gain"][1] for name, part in parts.items()}


def test_every_component_of_a_query_and_a_key():
    bundle, _ = made(normed=True)
    w, found = weights(normed=True), recorded(network(bundle), bundle)
    for letter, side, position in (("Q", "query", 4), ("K", "key", 2)):
        expected = naive_components(w, TOKENS[1], position)
        labels = found.labels(LAYERS - 1, position, side)
        vectors = Reader(found, LAYERS - 1, 1, side).vectors(1, position)
        names = [(KINDS[kind], head, source) for kind, head, source in zip(*labels[:1], *labels[2:], strict=True)]
        assert names[:-1] == list(expected)
        W, b = w[f"W_{letter}"][1, 1].astype(float), w[f"b_{letter}"][1, 1]
        for vector, part in zip(vectors[:-1], expected.values(), strict=True):
            np.testing.assert_allclose(vector, W @ part, atol=2e-6)
        assert names[-1][0] == "bias"
        np.testing.assert_allclose(vectors[-1], W @ w["norm_bias"][1] + b, atol=1e-6)


def summed(folder, kind):
    """The traces of a small random model of a type, with its scores before the cap from a naive forward in float64."""
    if kind in CONFIGS:
        config, tensors = CONFIGS[kind], small_models.weights(CONFIGS[kind])
    else:
        config, tensors = OTHERS[kind], other_models.weights(kind)
    found = trace.survey(
        read_model(write(folder, config, tensors), tokens=SEQUENCES),
        Checkpoint(folder),
        trace.Settings(decisions=2, modes=8),
    )
    assert float(found.gap.max()) <= 1e-4
    assert (abs(found.score_of_mode.sum("mode") - found.score) <= 1e-3 * found.head_scale).all()
    sums = found.table.sum(("query_part", "key_part"))
    if kind in OTHERS:
        scores = np.stack([other_models.naive(config, tensors, sequence)[3] for sequence in SEQUENCES], axis=2)
        divisor = Checkpoint(folder).architecture.divisors[0]
        at = tuple(found[name].values for name in ("layer", "head", "sequence", "query", "key"))
        assert (abs(sums - scores[at] / divisor) <= 1e-4 * found.head_scale).all()
    else:
        paid = np.stack([small_models.naive(config, tensors, sequence)[2] for sequence in SEQUENCES], axis=2)
        at = tuple(found[name].values for name in ("layer", "head", "sequence", "query", "key"))
        assert np.abs(found.weight.values - paid[at]).max() <= 1e-4
    return found


def test_scores_with_norms_of_queries_and_keys_and_behind_attention(tmp_path):
    """OLMo 2 holds the norm of all heads' queries, and those behind attention and MLP; none is before heads."""
    found = summed(tmp_path, "olmo2")
    assert set(np.unique(found.kind)) >= {"embedding", "head", "mlp"}
    # it has no biases, and so no components of 0
    assert not [kind for kind in np.unique(found.kind) if "bias" in kind]
    assert "biases" not in found.writer
    assert (found.score > 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS])
def test_scores_of_every_type(tmp_path, kind):
    summed(tmp_path, kind)
