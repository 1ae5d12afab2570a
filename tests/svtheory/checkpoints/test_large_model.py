"""A model of Llama 3.2 3B's shape, bfloat16 in shards: `spectra` of its 672 heads within 4 GiB, one head by its rows.

Queries and keys are random numbers, turned from layer to layer; of all else the files hold holes, which are zeros.
"""

import json
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import xarray as xr

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
ATTENTION = {"q": (HEADS * H, D), "k": (KEY_HEADS * H, D), "v": (KEY_HEADS * H, D), "o": (D, HEADS * H)}
NORMS = ("input_layernorm", "post_attention_layernorm")


def shard(folder, name, shapes, given):
    """A safetensors file of bfloat16 whose tensors are holes, but for those given."""
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / name).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
        for key, x in given.items():
            file.seek(8 + len(text) + header[key]["data_offsets"][0])
            file.write(x.tobytes())
    return dict.fromkeys(shapes, name)


def write_by_layer(folder, drawn):
    """A shard a layer, and one of the embedding."""
    weight_map = {}
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        shapes = {f"{name}.self_attn.{part}_proj.weight": shape for part, shape in ATTENTION.items()}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (F, D) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (D, F)} | {f"{name}.{norm}.weight": (D,) for norm in NORMS}
        given = {f"{name}.self_attn.{part}_proj.weight": np.roll(x, 7 * i, axis=1) for part, x in drawn.items()}
        given |= {f"{name}.{norm}.weight": np.ones(D, ml_dtypes.bfloat16) for norm in NORMS}
        weight_map |= shard(folder, f"model-{i}.safetensors", shapes, given)
    weight_map |= shard(
        folder, "ends.safetensors", {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}, {}
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def measured(program, *arguments):
    """What a program prints, and its peak memory in GiB."""
    code = f"{program}\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, peak = done.stdout.split()
    return printed, float(peak)


HEAD = """
import sys, resource
from svtheory.checkpoints import Checkpoint
checkpoint = Checkpoint(sys.argv[1])
checkpoint.head(0, 0)  # what JAX itself takes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
head = checkpoint.head(5, 23)
assert head.W_Q.shape == head.W_K.shape == (128, 3072)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_one_head_is_read_without_its_layer(tmp_path):
    """Its rows and those of its key head take 3 MiB in float32, queries of the layer 36, the layer 384."""
    write_by_layer(tmp_path, {})
    (more,), _ = measured(HEAD, tmp_path)
    assert float(more) < 18


@pytest.mark.slow
def test_spectra_of_672_heads_within_4_gib(tmp_path):
    rng = np.random.default_rng(0)
    drawn = {
        part: (0.02 * rng.standard_normal(ATTENTION[part], np.float32)).astype(ml_dtypes.bfloat16)
        for part in ("q", "k")
    }
    (tmp_path / "model").mkdir()
    write_by_layer(tmp_path / "model", drawn)
    program = "import sys\nfrom svtheory.__main__ import main\nmain(sys.argv[1:])"
    _, peak = measured(program, "spectra", tmp_path / "model", "--out", tmp_path / "runs")
    print(f"peak {peak:.2f} GiB")
    assert peak < 4
    q, k = (np.roll(x, 7 * 27, axis=1).astype(float) for x in drawn.values())
    exact = np.linalg.svd(q[-H:].T @ k[-H:], compute_uv=False)[:H]
    with xr.open_dataset(tmp_path / "runs" / "spectra" / "model" / "results.nc", engine="h5netcdf") as found:
        assert found.singular_value.shape == (LAYERS, HEADS, 1, H)
        assert "key_pattern" not in found
        values = found.singular_value.values[-1, -1, 0]
    assert np.abs(values - exact).max() <= 1e-5 * exact[0]
