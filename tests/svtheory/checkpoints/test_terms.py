"""Terms summed over k are the score before the softmax, in every convention, with biases and rotary positions (T11)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CONFIGS, V, naive, rotated, weights, write

from svtheory import decompose
from svtheory.checkpoints import Checkpoint, forward
from svtheory.heads.decomposition import CONVENTIONS

n = 13
TOKENS = np.random.default_rng(3).integers(0, V, size=(1, n))
KEY = 4


@jax.jit
def sums(heads, tokens):
    """Sums of terms of the last query with every key, by head and convention."""

    def of(head):
        given = (decompose(head, tokens[-1], tokens, KEY, name) for name in CONVENTIONS)
        return jnp.stack([d.terms.sum(axis=-1) for d in given])

    return jax.lax.map(of, heads)


@pytest.mark.parametrize(("kind", "folded"), [*((kind, False) for kind in CONFIGS), ("gpt2", True)])
def test_terms_sum_to_the_score(tmp_path, kind, folded):
    config, tensors = CONFIGS[kind], weights(CONFIGS[kind])
    checkpoint = Checkpoint(write(tmp_path, config, tensors))
    a = checkpoint.architecture
    theta = np.array(a.frequencies[0])
    reading = forward(checkpoint, TOKENS, folded)
    _, exact, _ = naive(config, tensors, TOKENS[0])
    for layer in range(a.layers):
        stored = [checkpoint.head(layer, h) for h in range(a.heads)]
        used = [checkpoint.head(layer, h, folded) for h in range(a.heads)]
        found = sums(jax.tree.map(lambda *x: jnp.stack(x), *used), jnp.asarray(reading.attn_in[layer, 0]))
        for h, head in enumerate(stored):
            q, k = (exact[layer] @ np.asarray(W, float).T for W in (head.W_Q, head.W_K))
            if head.b_Q is not None:
                q, k = q + np.asarray(head.b_Q, float), k + np.asarray(head.b_K, float)
            score = rotated(k, theta) @ rotated(q, theta)[-1]
            assert np.abs(np.asarray(found[h]) - score).max() <= 1e-4 * np.abs(score).max()
