"""Llama: rotary, RMSNorm, a gated MLP, groups of query heads that share a key head."""

from svtheory.checkpoints.architecture import Architecture, Place, Places, head_places, linear_places, norm_places
from svtheory.checkpoints.rope import rotary_frequencies, rotary_rule, rotary_section
from svtheory.checkpoints.settings import Config, activation, flag, number, quotient, size
from svtheory.checks import InputError

LAYERS, TIED = "layers.", False


def architecture(config: Config) -> Architecture:
    """The Architecture that a config.json of model_type llama describes."""
    layers, heads = size(config, "num_hidden_layers"), size(config, "num_attention_heads")
    key_heads = size(config, "num_key_value_heads", heads)
    if heads % key_heads:
        raise InputError(
            f"num_attention_heads of config.json must be a multiple of num_key_value_heads, got {heads} and {key_heads}"
        )
    explicit = config.get("head_dim") is not None
    d_head = size(config, "head_dim") if explicit else quotient(config, "hidden_size", "num_attention_heads")
    rope = rotary_section(config)
    base = number(rope, "rope_theta", number(config, "rope_theta", 10000.0))
    share = number(rope, "partial_rotary_factor", number(config, "partial_rotary_factor", 1.0))
    if share != 1 and rotary_rule(config) != "default":  # by default all rows turn, whatever the share
        raise InputError(f"partial_rotary_factor of config.json must be 1 where frequencies are rescaled, got {share}")
    return Architecture(
        model_type="llama",
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        d_head=d_head,
        d_model=size(config, "hidden_size"),
        d_mlp=size(config, "intermediate_size"),
        vocabulary=size(config, "vocab_size"),
        context=None,
        norm="rms",
        epsilon=number(config, "rms_norm_eps", 1e-6),
        activation=activation(config, "hidden_act", "silu"),
        parallel=False,
        divisors=(d_head**0.5,) * layers,
        frequencies=rotary_frequencies(config, d_head, 1.0, base),
    )


def layer_places(a: Architecture, i: int, config: Config) -> Places:
    """Where the weights of layer i lie."""
    name, D, H = f"layers.{i}", a.d_model, a.d_head
    attention_bias, mlp_bias = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)
    places = {
        "attention_norm": norm_places(f"{name}.input_layernorm", a),
        "mlp_norm": norm_places(f"{name}.post_attention_layernorm", a),
    }
    for role, heads in (("Q", a.heads), ("K", a.key_heads), ("V", a.key_heads)):
        starts = [h * H for h in range(heads)]
        places |= head_places(
            role, f"{name}.self_attn.{role.lower()}_proj", heads * H, D, starts, H, bias=attention_bias
        )
    places |= linear_places("O", f"{name}.self_attn.o_proj", D, a.heads * H, bias=attention_bias)
    places |= linear_places("in", f"{name}.mlp.up_proj", a.d_mlp, D, bias=mlp_bias)
    places |= linear_places("gate", f"{name}.mlp.gate_proj", a.d_mlp, D, bias=mlp_bias)
    return places | linear_places("out", f"{name}.mlp.down_proj", D, a.d_mlp, bias=mlp_bias)


def end_places(a: Architecture) -> Places:
    """Where embedding, final norm and unembedding lie."""
    return {
        "embedding": Place("embed_tokens.weight", (a.vocabulary, a.d_model)),
        "norm": norm_places("norm", a),
        "unembedding": Place("lm_head.weight", (a.vocabulary, a.d_model)),
    }
