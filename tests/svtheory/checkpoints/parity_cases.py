"""Small models of each type of transformers: class, settings and positions, with and without each option.

Windows are far below the positions, caps and divisors such that scores saturate: an option that is ignored shows.
"""

V = 61
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}
NEOX = {
    "vocab_size": V,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
}
LLAMA = {
    "vocab_size": V,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 2048,
}
PADS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # those of some types lie beyond this vocabulary
QWEN3 = {**LLAMA, "head_dim": 8}
GEMMA = {**LLAMA, **PADS, "head_dim": 8, "query_pre_attn_scalar": 8}
SETTINGS = {
    "GPT2": GPT2,
    "GPTNeoX": NEOX,
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": QWEN3,
    "Gemma2": GEMMA,
    "Gemma3Text": GEMMA,
    "Olmo2": {**LLAMA, **PADS},
    "Phi3": {**LLAMA, **PADS},
}
# what reaches the queries, by the module that makes them
READS = {
    **dict.fromkeys(SETTINGS, "self_attn.q_proj"),
    "GPT2": "attn.c_attn",
    "GPTNeoX": "attention.query_key_value",
    "Phi3": "self_attn.qkv_proj",
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0}
LOCAL, GLOBAL = "sliding_attention", "full_attention"

OPTIONS = {
    "gpt2": ("GPT2", {}, 40),
    "gpt2, exact gelu, scaled by layer": (
        "GPT2",
        {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "n_inner": 100},
        40,
    ),
    "gpt2, scores not divided": ("GPT2", {"scale_attn_weights": False, "reorder_and_upcast_attn": True}, 40),
    "gpt2, a head of its own": ("GPT2", {"tie_word_embeddings": False}, 40),
    "neox, offsets past 1,000": ("GPTNeoX", {}, 1200),
    "neox, one after the other, tied": (
        "GPTNeoX",
        {"use_parallel_residual": False, "tie_word_embeddings": True, "rotary_pct": 0.5},
        40,
    ),
    "neox, without biases of attention": ("GPTNeoX", {"attention_bias": False, "hidden_act": "relu"}, 40),
    "llama, groups, offsets past 1,000": ("Llama", {}, 1200),
    "llama, one group, tied, long heads, biases": (
        "Llama",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "head_dim": 10, "attention_bias": True},
        40,
    ),
    "llama, biases in the MLP, tanh": ("Llama", {"mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}, 40),
    "llama 3's rope, offsets past 1,000": ("Llama", {"rope_parameters": LLAMA3}, 1200),
    "mistral, window past 1,000": ("Mistral", {"sliding_window": 100}, 1200),
    "mistral, no window, tied, long heads": (
        "Mistral",
        {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 10, "rope_parameters": LINEAR},
        40,
    ),
    "mistral, a narrow window": ("Mistral", {"sliding_window": 1, "num_key_value_heads": 6}, 40),
    "qwen2, windows of later layers past 1,000": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
        1200,
    ),
    "qwen2, no window, tied, linear": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": LINEAR}, 40),
    "qwen2, windows as listed, one group, llama3": (
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": [LOCAL, GLOBAL, LOCAL],
            "num_key_value_heads": 1,
            "rope_parameters": LLAMA3,
        },
        40,
    ),
    "qwen3, windows of later layers past 1,000": (
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2},
        1200,
    ),
    "qwen3, no window, tied, long heads": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 20}, 40),
    "qwen3, dynamic, no groups": ("Qwen3", {"rope_parameters": DYNAMIC, "num_key_value_heads": 6}, 40),
    "gemma 2, windows past 1,000, caps": (
        "Gemma2",
        {"sliding_window": 64, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0},
        1200,
    ),
    "gemma 2, no caps, untied, biases, linear": (
        "Gemma2",
        {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "rope_parameters": LINEAR,
        },
        40,
    ),
    "gemma 2, windows as listed, another divisor, long heads": (
        "Gemma2",
        {
            "layer_types": [GLOBAL, LOCAL, LOCAL],
            "sliding_window": 6,
            "query_pre_attn_scalar": 20,
            "head_dim": 12,
            "attn_logit_softcapping": 3.0,
        },
        40,
    ),
    "gemma 3, local and global past 1,000": ("Gemma3Text", {"sliding_window": 64, "num_hidden_layers": 6}, 1200),
    "gemma 3, kinds as listed, a cap, rules by kind": (
        "Gemma3Text",
        {
            "layer_types": [GLOBAL, LOCAL, GLOBAL],
            "sliding_window": 6,
            "final_logit_softcapping": 2.0,
            "rope_parameters": {LOCAL: {"rope_type": "default", "rope_theta": 100.0}, GLOBAL: LINEAR},
        },
        40,
    ),
    "gemma 3, untied, another divisor, long heads": (
        "Gemma3Text",
        {
            "tie_word_embeddings": False,
            "query_pre_attn_scalar": 20,
            "head_dim": 12,
            "sliding_window": 5,
            "sliding_window_pattern": 2,
        },
        40,
    ),
    "olmo 2, groups, offsets past 1,000": ("Olmo2", {}, 1200),
    "olmo 2, one group, tied, tanh": (
        "Olmo2",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
        40,
    ),
    "olmo 2, no groups, llama3": ("Olmo2", {"num_key_value_heads": 6, "rope_parameters": LLAMA3}, 40),
    "phi 3, window and a share of rows past 1,000": (
        "Phi3",
        {"sliding_window": 64, "rope_parameters": {"rope_theta": 5000.0, "partial_rotary_factor": 0.5}},
        1200,
    ),
    "phi 3, tied, no groups": ("Phi3", {"tie_word_embeddings": True, "num_key_value_heads": 6}, 40),
    "phi 3, one group, gelu": ("Phi3", {"num_key_value_heads": 1, "hidden_act": "gelu"}, 40),
}
CASES = {case: (kind, {**SETTINGS[kind], **given}, length) for case, (kind, given, length) in OPTIONS.items()}
