"""Heads are read without keeping attention: 450 MB of it for a result of 4 MB."""

import subprocess
import sys

import numpy as np
from small_models import write

V, D, F, LAYERS, HEADS, n, SEQUENCES = 64, 64, 64, 8, 8, 768, 3
CONFIG = {"model_type": "gpt2", "vocab_size": V, "n_positions": n, "n_embd": D, "n_layer": LAYERS, "n_head": HEADS}
READ = f"""
import resource, sys
import numpy as np
from svtheory.checkpoints import Checkpoint, bundle_heads

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

checkpoint = Checkpoint(sys.argv[1])
tokens = np.random.default_rng(0).integers(0, {V}, size=({SEQUENCES}, {n}))
bundle_heads(checkpoint, tokens[:1, :8])  # what JAX itself takes
before = peak()
assert bundle_heads(checkpoint, tokens).attn_in.shape == ({LAYERS}, {SEQUENCES}, {n}, {D})
print(peak() - before)
"""


def tensors():
    rng = np.random.default_rng(0)
    shapes = {"wte.weight": (V, D), "wpe.weight": (n, D), "ln_f.weight": (D,), "ln_f.bias": (D,)}
    for i in range(LAYERS):
        linear = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
        for name, shape in linear.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {f"h.{i}.{norm}.{part}": (D,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return {name: rng.normal(size=shape, scale=0.1).astype(np.float32) for name, shape in shapes.items()}


def test_reading_heads_keeps_no_attention(tmp_path):
    folder = write(tmp_path, CONFIG | {"n_inner": F}, tensors())
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    attention = LAYERS * SEQUENCES * HEADS * n**2 * 4 / 2**20
    print(f"{float(done.stdout):.0f} MiB more, attention would be {attention:.0f} MiB")
    assert float(done.stdout) < attention / 3
