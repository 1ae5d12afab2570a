"""GPT-2: learned positions, LayerNorm, one matrix for queries, keys and values; its matrices are (in, out)."""

from svtheory.checkpoints.architecture import Architecture, Place, Places, head_places, linear_places, norm_places
from svtheory.checkpoints.settings import Config, activation, flag, number, quotient, size

LAYERS, TIED = "h.", True

# sizes by the names that other models have for them, which win
NAMES = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


def architecture(config: Config) -> Architecture:
    """The Architecture that a config.json of model_type gpt2 describes."""
    config = {**config, **{name: config[other] for name, other in NAMES.items() if config.get(other) is not None}}
    layers, d_model, d_head = size(config, "n_layer"), size(config, "n_embd"), quotient(config, "n_embd", "n_head")
    divisor = d_head**0.5 if flag(config, "scale_attn_weights", True) else 1.0
    by_layer = flag(config, "scale_attn_by_inverse_layer_idx", False)
    return Architecture(
        model_type="gpt2",
        layers=layers,
        heads=size(config, "n_head"),
        key_heads=size(config, "n_head"),
        d_head=d_head,
        d_model=d_model,
        d_mlp=size(config, "n_inner", 4 * d_model),
        vocabulary=size(config, "vocab_size"),
        context=size(config, "n_positions", 1024),
        norm="layer",
        epsilon=number(config, "layer_norm_epsilon", 1e-5),
        activation=activation(config, "activation_function", "gelu_new"),
        parallel=False,
        divisors=tuple(divisor * (i + 1 if by_layer else 1) for i in range(layers)),
    )


def layer_places(a: Architecture, i: int, _: Config) -> Places:
    """Where the weights of layer i lie."""
    name, D, H = f"h.{i}", a.d_model, a.d_head
    places = {"attention_norm": norm_places(f"{name}.ln_1", a), "mlp_norm": norm_places(f"{name}.ln_2", a)}
    for block, role in enumerate("QKV"):
        starts = [block * D + h * H for h in range(a.heads)]
        places |= head_places(role, f"{name}.attn.c_attn", 3 * D, D, starts, H, bias=True, transposed=True)
    places |= linear_places("O", f"{name}.attn.c_proj", D, D, bias=True, transposed=True)
    places |= linear_places("in", f"{name}.mlp.c_fc", a.d_mlp, D, bias=True, transposed=True)
    return places | linear_places("out", f"{name}.mlp.c_proj", D, a.d_mlp, bias=True, transposed=True)


def end_places(a: Architecture) -> Places:
    """Where embeddings, final norm and unembedding lie."""
    assert a.context is not None
    return {
        "embedding": Place("wte.weight", (a.vocabulary, a.d_model)),
        "positions": Place("wpe.weight", (a.context, a.d_model)),
        "norm": norm_places("ln_f", a),
        "unembedding": Place("lm_head.weight", (a.vocabulary, a.d_model)),
    }
