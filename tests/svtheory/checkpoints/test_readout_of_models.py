"""Readout of models in folders: what heads write with, embeddings as they read them, text by the folder's tokenizer."""

import subprocess
import sys

import numpy as np
import pytest
from other_models import OTHERS
from other_models import weights as other_weights
from small_models import CONFIGS, D, V, weights, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from svtheory.checkpoints import Checkpoint, read_layers
from svtheory.instruments.command import run as command
from svtheory.instruments.weights_out import embedding_table, output_weights, unembedding_tables

TOKENS = np.random.default_rng(3).integers(0, V, (3, 7))
EVERY = {**CONFIGS, **OTHERS}
POST_NORMED = ("olmo2", "gemma2", "gemma3_text")
SLOWLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in EVERY if kind != "gpt2"]


def written(kind, path, mlp=1.0):
    """A folder of a small model whose MLPs write `mlp` times what they would."""
    made = weights(EVERY[kind]) if kind in CONFIGS else other_weights(kind)
    last = ("mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj")
    made = {name: x * np.float32(mlp) if any(part in name for part in last) else x for name, x in made.items()}
    return write(path / kind, EVERY[kind], made)


def away(x):
    return x - x.reshape(-1, x.shape[-1]).mean(axis=0)


@pytest.mark.parametrize("kind", ["gpt2", *SLOWLY])
def test_heads_write_what_the_pass_adds_to_the_stream(kind, tmp_path):
    checkpoint = Checkpoint(written(kind, tmp_path, mlp=0.0))
    for i, layer in enumerate(read_layers(checkpoint, TOKENS, folded=True)):
        W_V, W_O = output_weights(checkpoint.architecture, w := checkpoint.layer(i), folded=True)
        read = np.asarray(layer.attn_in)
        found = np.einsum("hde,hef,shqk,skf->sqd", W_O, W_V, np.asarray(layer.attention), read, optimize=True)
        added = np.asarray(layer.after - layer.before)
        if kind in POST_NORMED:  # whose scale is left out: the same directions, were there no constants
            lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(added, axis=-1)
            assert ((found * added).sum(axis=-1) / lengths).min() > 0.999
        else:
            np.testing.assert_allclose(away(found), away(added), atol=2e-5 * np.abs(added).max())
        if "attention_norm" in w:  # the same where it stands before the weights
            plain, other = output_weights(checkpoint.architecture, w, folded=False)
            np.testing.assert_array_equal(other, W_O)
            given = read * w["attention_norm"]["gain"]
            for h in range(len(W_V)):
                np.testing.assert_allclose(read @ W_V[h].T, given @ plain[h].T, atol=2e-5 * np.abs(given).max())


def test_embeddings_and_logits_through_norms(tmp_path):
    checkpoint = Checkpoint(written("gpt2", tmp_path))
    rows = checkpoint.inputs()["embedding"].astype(float)
    vectors = np.random.default_rng(0).normal(size=(4, D)).astype(np.float32)
    levelled = rows - rows.mean(axis=1, keepdims=True)
    for folded, gain in ((True, 1.0), (False, checkpoint.layer(1)["attention_norm"]["gain"])):
        table = embedding_table(checkpoint, checkpoint.layer(1), folded)
        for centred in (False, True):
            seen = gain * (levelled - (levelled.mean(axis=0) if centred else 0))
            near = vectors @ seen.T / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(seen, axis=1)
            units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
            np.testing.assert_allclose(table.cosines(units, np.full(4, centred)), near, atol=1e-5)
    (logits,) = unembedding_tables(checkpoint)
    made = checkpoint.outputs()
    raised = (vectors - vectors.mean(axis=1, keepdims=True)) * made["norm"]["gain"] @ made["unembedding"].T
    found = logits.products(vectors, np.ones(4, bool))
    np.testing.assert_allclose(found, raised - raised.mean(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_the_command_reads_text(kind, tmp_path):
    folder = written(kind, tmp_path)
    letters = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz\u0120.é")}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("thequickbrownfoxjumpsoverthelazydog." * 4)
    options = [
        "--text",
        str(tmp_path / "text.txt"),
        "--positions",
        "12",
        "--modes",
        "2",
        "--out",
        str(tmp_path / "runs"),
    ]
    outcome = command("readout", [str(folder), *options])
    assert "".join(outcome.results.piece.values[0]) == "thequickbrow"
    assert "«" in outcome.rows[0]["key"]
    assert "left_out" not in outcome.results.attrs
    assert np.isfinite(outcome.results.ov_logit).all()
    assert outcome.rows[0]["writes"] != "-"


LARGE = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
READ = """
import resource, sys, time
import numpy as np
from svtheory.checkpoints import Checkpoint, read_model
from svtheory.instruments import readout

bundle = read_model(sys.argv[1], tokens=np.random.default_rng(0).zipf(1.3, size=(20, 64)) % 50257)
began = time.process_time()
found = readout.survey(bundle, Checkpoint(sys.argv[1]))
assert len(readout.rows(found)) == 144
print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_a_model_of_the_shape_of_gpt2_within_3_gib(tmp_path):
    rng, D = np.random.default_rng(0), LARGE["n_embd"]
    shapes = {"wte.weight": (50257, D), "wpe.weight": (1024, D), "ln_f.weight": (D,), "ln_f.bias": (D,)}
    linear = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
    for i in range(12):
        for name, shape in linear.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {f"h.{i}.{norm}.{part}": (D,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    made = {name: rng.normal(size=shape, scale=0.05).astype(np.float32) for name, shape in shapes.items()}
    folder = write(tmp_path, LARGE, {name: x + ("ln_" in name and "weight" in name) for name, x in made.items()})
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, peak = map(float, done.stdout.split())
    print(f"{seconds:.0f} s of processor time, {peak:.2f} GiB")
    assert peak < 3
    assert seconds < 80  # of two processors for 40 s
