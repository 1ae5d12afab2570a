"""Small random checkpoints of each type, written as Hugging Face writes them, and naive forward passes in numpy."""

import json
from math import erf

import numpy as np
from safetensors.numpy import save_file

V, D, F, LAYERS = 29, 24, 40, 2

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": V,
    "n_positions": 32,
    "n_embd": D,
    "n_layer": LAYERS,
    "n_head": 3,
    "n_inner": F,
    "layer_norm_epsilon": 1e-5,
}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": F,
    "rotary_pct": 0.5,
    "rotary_emb_base": 10000,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": F,
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {"gpt2": GPT2, "gpt_neox": NEOX, "llama": LLAMA}


def shapes(config):
    """The tensors of a checkpoint, written out."""
    if config["model_type"] == "gpt2":
        made = {"transformer.wte.weight": (V, D), "transformer.wpe.weight": (config["n_positions"], D)}
        for i in range(LAYERS):
            name = f"transformer.h.{i}"
            for part, shape in {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D)}.items():
                made |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[1:]}
            for part, shape in {"mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}.items():
                made |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[1:]}
            made |= {f"{name}.{norm}.{x}": (D,) for norm in ("ln_1", "ln_2") for x in ("weight", "bias")}
        return made | {"transformer.ln_f.weight": (D,), "transformer.ln_f.bias": (D,)}
    if config["model_type"] == "gpt_neox":
        made = {"gpt_neox.embed_in.weight": (V, D), "embed_out.weight": (V, D)}
        linear = {
            "attention.query_key_value": (3 * D, D),
            "attention.dense": (D, D),
            "mlp.dense_h_to_4h": (F, D),
            "mlp.dense_4h_to_h": (D, F),
        }
        for i in range(LAYERS):
            name = f"gpt_neox.layers.{i}"
            for part, shape in linear.items():
                made |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
            norms = ("input_layernorm", "post_attention_layernorm")
            made |= {f"{name}.{norm}.{x}": (D,) for norm in norms for x in ("weight", "bias")}
        return made | {"gpt_neox.final_layer_norm.weight": (D,), "gpt_neox.final_layer_norm.bias": (D,)}
    H, heads, groups = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    made = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        made |= {
            f"{name}.self_attn.q_proj.weight": (heads * H, D),
            f"{name}.self_attn.k_proj.weight": (groups * H, D),
            f"{name}.self_attn.v_proj.weight": (groups * H, D),
            f"{name}.self_attn.o_proj.weight": (D, heads * H),
            f"{name}.mlp.gate_proj.weight": (F, D),
            f"{name}.mlp.up_proj.weight": (F, D),
            f"{name}.mlp.down_proj.weight": (D, F),
            f"{name}.input_layernorm.weight": (D,),
            f"{name}.post_attention_layernorm.weight": (D,),
        }
    return made


def weights(config, seed=0):
    """Random weights, large enough that attention is far from uniform; gains near 1."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes(config).items()}
    for name in made:
        if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight", "norm.weight")):
            made[name] += 1
    return made


def write(folder, config, tensors, shards=1):
    """A checkpoint's folder, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def naive(config, tensors, sequence, **given):
    """Logits (n, V), attention inputs (layers, n, D) and attention (layers, heads, n, n) in float64, loop by loop."""
    prefixes = ("transformer.", "gpt_neox.", "model.")
    w = {name.removeprefix(next(filter(name.startswith, prefixes), "")): x.astype(float) for name, x in tensors.items()}
    answer = {"gpt2": naive_gpt2, "gpt_neox": naive_neox, "llama": naive_llama}[config["model_type"]]
    return answer(config, w, sequence, **given)


def naive_gpt2(config, w, sequence):
    heads, H = config["n_head"], D // config["n_head"]
    x, read, paid = w["wte.weight"][sequence] + w["wpe.weight"][: len(sequence)], [], []
    for i in range(LAYERS):
        h = f"h.{i}"
        read.append(layer_norm(x, w[f"{h}.ln_1.weight"], w[f"{h}.ln_1.bias"]))
        q, k, v = np.split(read[-1] @ w[f"{h}.attn.c_attn.weight"] + w[f"{h}.attn.c_attn.bias"], 3, axis=1)
        out, weights = attend([tuple(a[:, j * H : (j + 1) * H] for a in (q, k, v)) for j in range(heads)])
        paid.append(weights)
        x = x + out @ w[f"{h}.attn.c_proj.weight"] + w[f"{h}.attn.c_proj.bias"]
        hidden = layer_norm(x, w[f"{h}.ln_2.weight"], w[f"{h}.ln_2.bias"]) @ w[f"{h}.mlp.c_fc.weight"]
        hidden = (gelu if config.get("activation_function") == "gelu" else gelu_tanh)(hidden + w[f"{h}.mlp.c_fc.bias"])
        x = x + hidden @ w[f"{h}.mlp.c_proj.weight"] + w[f"{h}.mlp.c_proj.bias"]
    return layer_norm(x, w["ln_f.weight"], w["ln_f.bias"]) @ w["wte.weight"].T, np.array(read), np.array(paid)


def naive_neox(config, w, sequence, theta=None):
    heads, H = config["num_attention_heads"], D // config["num_attention_heads"]
    if theta is None:
        theta = 10000.0 ** (-np.arange(0, H * config["rotary_pct"], 2) / (H * config["rotary_pct"]))
    x, read, paid = w["embed_in.weight"][sequence], [], []
    for i in range(LAYERS):
        h = f"layers.{i}"
        read.append(layer_norm(x, w[f"{h}.input_layernorm.weight"], w[f"{h}.input_layernorm.bias"]))
        mixed = read[-1] @ w[f"{h}.attention.query_key_value.weight"].T + w[f"{h}.attention.query_key_value.bias"]
        parts = []
        for j in range(heads):
            q, k, v = np.split(mixed[:, j * 3 * H : (j + 1) * 3 * H], 3, axis=1)
            parts.append((rotated(q, theta), rotated(k, theta), v))
        out, weights = attend(parts)
        paid.append(weights)
        out = out @ w[f"{h}.attention.dense.weight"].T + w[f"{h}.attention.dense.bias"]
        seen = x if config.get("use_parallel_residual", True) else x + out
        hidden = layer_norm(seen, w[f"{h}.post_attention_layernorm.weight"], w[f"{h}.post_attention_layernorm.bias"])
        hidden = gelu(hidden @ w[f"{h}.mlp.dense_h_to_4h.weight"].T + w[f"{h}.mlp.dense_h_to_4h.bias"])
        x = x + out + hidden @ w[f"{h}.mlp.dense_4h_to_h.weight"].T + w[f"{h}.mlp.dense_4h_to_h.bias"]
    final = layer_norm(x, w["final_layer_norm.weight"], w["final_layer_norm.bias"])
    return final @ w["embed_out.weight"].T, np.array(read), np.array(paid)


def naive_llama(config, w, sequence, theta=None):
    heads, groups, H = (config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    theta = config["rope_theta"] ** (-np.arange(0, H, 2) / H) if theta is None else theta
    x, read, paid = w["embed_tokens.weight"][sequence], [], []
    for i in range(LAYERS):
        h = f"layers.{i}"
        read.append(rms_norm(x, w[f"{h}.input_layernorm.weight"]))
        q, k, v = (read[-1] @ w[f"{h}.self_attn.{name}_proj.weight"].T for name in "qkv")
        parts = []
        for j in range(heads):
            own, shared = slice(j * H, (j + 1) * H), j // (heads // groups)
            of_group = slice(shared * H, (shared + 1) * H)
            parts.append((rotated(q[:, own], theta), rotated(k[:, of_group], theta), v[:, of_group]))
        out, weights = attend(parts)
        paid.append(weights)
        x = x + out @ w[f"{h}.self_attn.o_proj.weight"].T
        y = rms_norm(x, w[f"{h}.post_attention_layernorm.weight"])
        gate = y @ w[f"{h}.mlp.gate_proj.weight"].T
        hidden = gate / (1 + np.exp(-gate)) * (y @ w[f"{h}.mlp.up_proj.weight"].T)
        x = x + hidden @ w[f"{h}.mlp.down_proj.weight"].T
    return rms_norm(x, w["norm.weight"]) @ w["lm_head.weight"].T, np.array(read), np.array(paid)


def attend(parts):
    """Causal attention of each head's (q, k, v); outputs side by side."""
    outs, paid = [], []
    for q, k, v in parts:
        scores = q @ k.T / np.sqrt(q.shape[1])
        scores[np.triu_indices(len(q), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        paid.append(weights / weights.sum(axis=1, keepdims=True))
        outs.append(paid[-1] @ v)
    return np.concatenate(outs, axis=1), np.array(paid)


def rotated(x, theta):
    """Rows h and h + R/2 of the first R turn by theta_h times the position; the rest stay."""
    R = 2 * len(theta)
    turned = x[:, : R // 2] + 1j * x[:, R // 2 : R]
    turned = turned * np.exp(1j * np.outer(np.arange(len(x)), theta))
    return np.concatenate([turned.real, turned.imag, x[:, R:]], axis=1)


def layer_norm(x, gain, bias):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * gain + bias


def rms_norm(x, gain):
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * gain


def gelu(x):
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
