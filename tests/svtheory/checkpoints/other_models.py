"""Small random checkpoints of the types beside GPT-2, GPT-NeoX and Llama, and one naive forward pass of them all."""

import numpy as np
from small_models import D, F, V, gelu_tanh, rotated

HEADS, GROUPS, H = 4, 2, 8
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": H,
    "intermediate_size": F,
    "rope_theta": 500.0,
    "rms_norm_eps": 1e-5,
}
GEMMA = {**SIZES, "sliding_window": 3, "query_pre_attn_scalar": 5, "final_logit_softcapping": 2.0}
OTHERS = {
    "mistral": {**SIZES, "sliding_window": 4},
    "phi3": {**SIZES, "partial_rotary_factor": 0.5},
    "qwen2": {**SIZES, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": SIZES,
    "olmo2": SIZES,
    "gemma2": {**GEMMA, "attn_logit_softcapping": 1.5},
    "gemma3_text": {**GEMMA, "rope_local_base_freq": 20.0, "sliding_window_pattern": 2},
}
OTHERS = {kind: {"model_type": kind, **config} for kind, config in OTHERS.items()}
# how many keys the queries of either layer see
WINDOWS = {"mistral": (4, 4), "qwen2": (99, 4), "gemma2": (3, 99), "gemma3_text": (3, 99)}
NORMS = {
    "olmo2": (None, "post_attention", None, "post_feedforward"),
    "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    "gemma3_text": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
}
LLAMA_NORMS = ("input", None, "post_attention", None)


def shapes(kind):
    """The tensors of a checkpoint, written out."""
    q, k = HEADS * H, GROUPS * H
    made = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if "gemma" not in kind:
        made["lm_head.weight"] = (V, D)
    for i in range(2):
        name = f"model.layers.{i}"
        made |= {f"{name}.{norm}_layernorm.weight": (D,) for norm in NORMS.get(kind, LLAMA_NORMS) if norm}
        if kind == "phi3":
            linear = {"self_attn.qkv": (q + 2 * k, D), "mlp.gate_up": (2 * F, D)}
        else:
            linear = {"self_attn.q": (q, D), "self_attn.k": (k, D), "self_attn.v": (k, D)}
            linear |= {"mlp.gate": (F, D), "mlp.up": (F, D)}
        linear |= {"self_attn.o": (D, q), "mlp.down": (D, F)}
        made |= {f"{name}.{part}_proj.weight": shape for part, shape in linear.items()}
        if kind == "qwen2":
            made |= {f"{name}.self_attn.{x}_proj.bias": (rows,) for x, rows in (("q", q), ("k", k), ("v", k))}
        if kind in ("qwen3", "gemma3_text"):
            made |= {f"{name}.self_attn.{x}_norm.weight": (H,) for x in "qk"}
        if kind == "olmo2":
            made |= {f"{name}.self_attn.q_norm.weight": (q,), f"{name}.self_attn.k_norm.weight": (k,)}
    return made


def weights(kind, seed=0):
    """Random weights, large enough that attention is far from uniform; gains near 1."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes(kind).items()}
    for name in made:
        if name.endswith("norm.weight") and "gemma" not in kind:
            made[name] += 1
    return made


def naive(config, tensors, sequence):
    """Logits (n, V), attention inputs (layers, n, D), attention (layers, heads, n, n) and scores before the cap.

    In float64, head by head.
    """
    kind, n = config["model_type"], len(sequence)
    w = {name.removeprefix("model."): x.astype(float) for name, x in tensors.items()}
    plus = 1 if "gemma" in kind else 0

    def norm(x, name):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * (plus + w[f"{name}.weight"]) if name else x

    x, read, paid, compared = w["embed_tokens.weight"][sequence], [], [], []
    x = x * np.sqrt(D) if plus else x
    for i in range(2):
        h = f"layers.{i}"
        before, behind, before_mlp, behind_mlp = (
            name and f"{h}.{name}_layernorm" for name in NORMS.get(kind, LLAMA_NORMS)
        )
        read.append(norm(x, before))
        if kind == "phi3":
            q, k, v = np.split(read[-1] @ w[f"{h}.self_attn.qkv_proj.weight"].T, [HEADS * H, (HEADS + GROUPS) * H], 1)
        else:
            biases = [w.get(f"{h}.self_attn.{x}_proj.bias", 0) for x in "qkv"]
            q, k, v = (read[-1] @ w[f"{h}.self_attn.{x}_proj.weight"].T + b for x, b in zip("qkv", biases, strict=True))
        if kind == "olmo2":
            q, k = norm(q, f"{h}.self_attn.q_norm"), norm(k, f"{h}.self_attn.k_norm")
        rows = H * config.get("partial_rotary_factor", 1)
        base = 20.0 if kind == "gemma3_text" and i == 0 else 500.0
        theta = base ** (-np.arange(0, rows, 2) / rows)
        divisor = np.sqrt(config.get("query_pre_attn_scalar", H))
        distance = np.arange(n)[:, None] - np.arange(n)
        hidden = (distance < 0) | (distance >= WINDOWS.get(kind, (99, 99))[i])
        outs, weights_of, scores_of = [], [], []
        for j in range(HEADS):
            own, shared = slice(j * H, (j + 1) * H), slice(j // 2 * H, (j // 2 + 1) * H)
            query, key = q[:, own], k[:, shared]
            if kind in ("qwen3", "gemma3_text"):
                query, key = norm(query, f"{h}.self_attn.q_norm"), norm(key, f"{h}.self_attn.k_norm")
            scores = rotated(query, theta) @ rotated(key, theta).T
            scores_of.append(scores)
            scores = scores / divisor
            if kind == "gemma2":
                scores = 1.5 * np.tanh(scores / 1.5)
            scores = np.where(hidden, -np.inf, scores)
            weight = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights_of.append(weight / weight.sum(axis=1, keepdims=True))
            outs.append(weights_of[-1] @ v[:, shared])
        paid.append(weights_of)
        compared.append(scores_of)
        x = x + norm(np.concatenate(outs, axis=1) @ w[f"{h}.self_attn.o_proj.weight"].T, behind)
        y = norm(x, before_mlp)
        if kind == "phi3":
            gate, up = np.split(y @ w[f"{h}.mlp.gate_up_proj.weight"].T, 2, axis=1)
        else:
            gate, up = (y @ w[f"{h}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        activated = gelu_tanh(gate) if "gemma" in kind else gate / (1 + np.exp(-gate))
        x = x + norm((activated * up) @ w[f"{h}.mlp.down_proj.weight"].T, behind_mlp)
    logits = norm(x, "norm") @ (w["embed_tokens.weight"] if plus else w["lm_head.weight"]).T
    return 2 * np.tanh(logits / 2) if plus else logits, np.array(read), np.array(paid), np.array(compared)
