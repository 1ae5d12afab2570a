"""GPT-NeoX and Pythia: partly rotary, a parallel residual, queries, keys and values interleaved head by head."""

from svtheory.checkpoints.architecture import Architecture, Place, Places, head_places, linear_places, norm_places
from svtheory.checkpoints.rope import rotary_frequencies, rotary_section
from svtheory.checkpoints.settings import Config, activation, flag, number, quotient, size
from svtheory.checks import InputError

LAYERS, TIED = "layers.", False


def architecture(config: Config) -> Architecture:
    """The Architecture that a config.json of model_type gpt_neox describes."""
    layers, d_head = size(config, "num_hidden_layers"), quotient(config, "hidden_size", "num_attention_heads")
    if size(config, "head_dim", d_head) != d_head:
        raise InputError(
            f"head_dim of config.json must be hidden_size/num_attention_heads, {d_head}, got {config['head_dim']}"
        )
    rope = rotary_section(config)
    share = number(rope, "partial_rotary_factor", number(config, "rotary_pct", 0.25))
    base = number(rope, "rope_theta", number(config, "rotary_emb_base", 10000.0))
    return Architecture(
        model_type="gpt_neox",
        layers=layers,
        heads=size(config, "num_attention_heads"),
        key_heads=size(config, "num_attention_heads"),
        d_head=d_head,
        d_model=size(config, "hidden_size"),
        d_mlp=size(config, "intermediate_size"),
        vocabulary=size(config, "vocab_size"),
        context=None,
        norm="layer",
        epsilon=number(config, "layer_norm_eps", 1e-5),
        activation=activation(config, "hidden_act", "gelu"),
        parallel=flag(config, "use_parallel_residual", True),
        divisors=(d_head**0.5,) * layers,
        frequencies=rotary_frequencies(config, d_head, share, base),
    )


def layer_places(a: Architecture, i: int, config: Config) -> Places:
    """Where the weights of layer i lie: of the 3 H rows of a head, the first H are its queries', the next its keys'."""
    name, D, H = f"layers.{i}", a.d_model, a.d_head
    bias = flag(config, "attention_bias", True)
    places = {
        "attention_norm": norm_places(f"{name}.input_layernorm", a),
        "mlp_norm": norm_places(f"{name}.post_attention_layernorm", a),
    }
    for block, role in enumerate("QKV"):
        starts = [(3 * h + block) * H for h in range(a.heads)]
        places |= head_places(role, f"{name}.attention.query_key_value", 3 * D, D, starts, H, bias=bias)
    places |= linear_places("O", f"{name}.attention.dense", D, D, bias=bias)
    places |= linear_places("in", f"{name}.mlp.dense_h_to_4h", a.d_mlp, D, bias=True)
    return places | linear_places("out", f"{name}.mlp.dense_4h_to_h", D, a.d_mlp, bias=True)


def end_places(a: Architecture) -> Places:
    """Where embedding, final norm and unembedding lie."""
    return {
        "embedding": Place("embed_in.weight", (a.vocabulary, a.d_model)),
        "norm": norm_places("final_layer_norm", a),
        "unembedding": Place("lm_head.weight", (a.vocabulary, a.d_model)),
    }
