"""A model of Llama 3.2 3B's shape is read head by head: 672 spectra within 8 GiB, weights on disk as bfloat16."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

LAYERS, HEADS, KEY_HEADS, H, D, F, V = 28, 24, 8, 128, 3072, 8192, 128256
CONFIG = {
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": H,
    "intermediate_size": F,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
READ = """
import resource, sys, time
import jax, jax.numpy as jnp, numpy as np
from svtheory import spectrum
from svtheory.checkpoints import Checkpoint

began = time.perf_counter()
checkpoint = Checkpoint(sys.argv[1])
a = checkpoint.architecture
spectra = jax.jit(lambda heads: jax.lax.map(lambda head: spectrum(head.W_Q, head.W_K).values, heads))
values = []
for layer in range(a.layers):
    heads = [checkpoint.head(layer, head) for head in range(a.heads)]
    values.append(spectra(jax.tree.map(lambda *x: jnp.stack(x), *heads)))
values = np.array(values)
assert values.shape == (28, 24, 128) and (values > 0).all() and (np.diff(values) <= 0).all()
exact = np.linalg.svd(np.asarray(heads[-1].W_Q, float).T @ np.asarray(heads[-1].W_K, float), compute_uv=False)[:128]
assert np.abs(values[-1, -1] - exact).max() <= 1e-5 * exact[0]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter() - began)
"""


def write_by_layer(folder):
    """A shard a layer, and one of the embedding; only a layer is in memory."""
    rng, weight_map = np.random.default_rng(0), {}

    def shard(name, shapes):
        made = {
            key: (0.02 * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)
            for key, shape in shapes.items()
        }
        save_file(made, folder / f"{name}.safetensors")
        weight_map.update(dict.fromkeys(shapes, f"{name}.safetensors"))

    for i in range(LAYERS):
        name = f"model.layers.{i}"
        linear = {"q": (HEADS * H, D), "k": (KEY_HEADS * H, D), "v": (KEY_HEADS * H, D), "o": (D, HEADS * H)}
        shapes = {f"{name}.self_attn.{part}_proj.weight": shape for part, shape in linear.items()}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (F, D) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (D, F)}
        shapes |= {f"{name}.{norm}.weight": (D,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shard(f"layer-{i}", shapes)
    shard("ends", {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.slow
def test_672_heads_within_8_gib(tmp_path):
    write_by_layer(tmp_path)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True)
    for path in tmp_path.glob("*.safetensors"):  # six gigabytes
        path.unlink()
    assert done.returncode == 0, done.stderr
    gib, seconds = map(float, done.stdout.split())
    print(f"peak {gib:.2f} GiB, {seconds:.0f} s")
    assert gib < 8
