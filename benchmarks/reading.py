"""Reading heads: a layer's balanced spectra, `explain`, `sparseness_test` and `read_model`, beside users' NumPy.

All sides compute the same, and a run stops with an error where they disagree: values to rounding, p-values by chance.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from benchmarks import numpy_peers
from benchmarks.timing import interleaved, ratio
from svtheory import explain, read_model, sparseness_test
from svtheory.heads import Head
from svtheory.spectra.balanced import balanced, moment_root

DRAWS, FEW, KEY = 999, 25, jax.random.key(0)


def measure() -> dict[str, float]:
    """Ratios to the peers and seconds of ours."""
    figures = {}
    for name, build in {"balanced": _balanced, "explain": _explain, "sparseness": _sparseness, "read": _read}.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, peer, agree, *definition = build(Path(folder))
            agree(jax.tree.map(np.asarray, ours()), peer())
            seconds = interleaved({"ours": ours, "numpy": peer}, rounds=3)
        figures |= {f"{name}_ratio_numpy": ratio(seconds["numpy"], seconds["ours"]), f"{name}_s": min(seconds["ours"])}
        for by_definition in definition:
            figures[f"{name}_ratio_definition"] = _of_all_draws(by_definition) / min(seconds["ours"])
    return figures


def _of_all_draws(run: Callable[[int], object]) -> float:
    """Seconds of DRAWS draws that a peer would take, from those of one and of FEW: each draw costs the same."""
    seconds = []
    for draws in (1, FEW):
        began = time.perf_counter()
        run(draws)
        seconds.append(time.perf_counter() - began)
    return seconds[0] + (seconds[1] - seconds[0]) / (FEW - 1) * (DRAWS - 1)


def _drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def _correlated(n: int, D: int) -> np.ndarray:
    """Tokens (n, D) whose moment has a spectrum that falls."""
    basis = np.linalg.qr(_drawn(D, D))[0]
    return (_drawn(n, D) * np.geomspace(3, 0.3, D, dtype=np.float32)) @ basis + np.float32(0.1)


def _balanced(_: Path):
    """Twelve heads of one layer of GPT-2's shape, moments shared."""
    (W_Q, W_K), tokens = _drawn(2, 12, 64, 768), _correlated(2000, 768)
    moment = tokens.T @ tokens / len(tokens)

    @jax.jit
    def layer(W_Q, W_K, moment):
        root = moment_root("moment", moment, W_Q[0])
        return jax.lax.map(lambda W: balanced(*W, root, root), (W_Q, W_K))

    def agree(found, values):
        assert (np.abs(found.values - values) < 1e-4 * values[:, :1]).all()

    return partial(layer, W_Q, W_K, moment), partial(numpy_peers.balanced_layer, W_Q, W_K, moment, moment), agree


def _explain(_: Path):
    """One head of (32, 256), 2,000 samples a side, 24 features a side, 999 random heads and rivals."""
    D, N, x, y = 256, 24, _correlated(2000, 256), _correlated(2000, 256)[::-1].copy()
    f, g = x @ _drawn(D, N) + _drawn(2000, N), y @ _drawn(D, N) + _drawn(2000, N)
    T = np.eye(N, dtype=np.float32)
    U, s, Vt = np.linalg.svd(np.linalg.lstsq(x, f, rcond=None)[0] @ T @ np.linalg.lstsq(y, g, rcond=None)[0].T)
    W_Q, W_K = (np.sqrt(s[:32, None]) * a + 0.05 * _drawn(32, D) for a in (U.T[:32], Vt[:32]))
    W_Q, W_K = W_Q.astype(np.float32), W_K.astype(np.float32)

    def agree(found, peer):
        assert abs(found.functional_cosine - peer[0]) < 2e-3
        assert abs(found.p_value - peer[1]) < 0.01
        assert abs(np.nanmax(found.rivals) - peer[2].max()) < 0.05

    given = (jnp.asarray(array) for array in (W_Q, W_K, x, f, y, g, T))
    ours = partial(explain, *given, KEY, draws=DRAWS)
    peer, definition = (
        partial(peer, W_Q, W_K, (x, f), (y, g), T) for peer in (numpy_peers.explain, numpy_peers.explain_by_definition)
    )
    return ours, partial(peer, DRAWS), agree, definition


def _sparseness(_: Path):
    """One head of (32, 256) without biases, 16 sequences of 32 tokens, 999 random heads of either null."""
    x, W_Q, W_K = _correlated(16 * 32, 256).reshape(16, 32, 256), *_drawn(2, 32, 256) / 16

    def agree(found, peer):
        assert abs(found.head_sparseness - peer[0]) < 1e-3
        assert abs(found.head_p_value - peer[1]) < 0.1

    head, tokens = Head(jnp.asarray(W_Q), jnp.asarray(W_K)), jnp.asarray(x)
    ours = partial(sparseness_test, head, tokens, tokens, KEY, DRAWS)
    definition = partial(numpy_peers.sparseness_by_definition, W_Q, W_K, x)
    return ours, partial(numpy_peers.sparseness_test, W_Q, W_K, x, DRAWS), agree, definition


def _read(folder: Path):
    """A GPT-2 of four layers and d_model 512, 16 sequences of 64 tokens, from its folder on."""
    D, layers, heads = 512, 4, 8
    shapes = {"wte.weight": (2000, D), "wpe.weight": (64, D), "ln_f.weight": (D,), "ln_f.bias": (D,)}
    of_layer = {
        **{f"ln_{i}.{part}": (D,) for i in (1, 2) for part in ("weight", "bias")},
        "attn.c_attn.weight": (D, 3 * D),
        "attn.c_attn.bias": (3 * D,),
        "attn.c_proj.weight": (D, D),
        "attn.c_proj.bias": (D,),
        "mlp.c_fc.weight": (D, 4 * D),
        "mlp.c_fc.bias": (4 * D,),
        "mlp.c_proj.weight": (4 * D, D),
        "mlp.c_proj.bias": (D,),
    }
    shapes |= {f"h.{layer}.{name}": shape for layer in range(layers) for name, shape in of_layer.items()}
    save_file(
        {f"transformer.{name}": 0.05 * _drawn(*shape) for name, shape in shapes.items()}, folder / "model.safetensors"
    )
    config = {
        "model_type": "gpt2",
        "vocab_size": 2000,
        "n_positions": 64,
        "n_embd": D,
        "n_layer": layers,
        "n_head": heads,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = np.random.default_rng(0).integers(0, 2000, (16, 64))

    def ours():
        bundle = read_model(folder, tokens=tokens)
        return {name: np.asarray(getattr(bundle, name)) for name in ("attn_in", "W_Q", "W_K")}

    def agree(found, peer):
        for name, values in peer.items():
            assert np.abs(found[name] - values).max() < 1e-3 * np.abs(values).max(), name

    return ours, partial(numpy_peers.read_gpt2, folder, tokens, heads), agree
