"""Reader: what a Description makes of a config.json, and where the weights of such a model lie."""

from collections.abc import Sequence

import numpy as np

from svtheory.checkpoints.architecture import Architecture, Place, Places
from svtheory.checkpoints.descriptions import DESCRIPTIONS, FULL, KINDS, Description
from svtheory.checkpoints.rope import context_limit, frequencies_by_kind
from svtheory.checkpoints.settings import (
    Config,
    activation,
    entry,
    flag,
    number,
    quotient,
    refuse_others,
    section,
    size,
)
from svtheory.checks import InputError, one_of

# a null one says that there is none; any other that is null is as if it were absent
NULLABLE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "num_key_value_heads")
LIMITS = (10_000, 10_000, 65_536)  # many times those of any model
IMAGES = {"gemma3": "gemma3_text"}  # types that read images too, and the type of their text part


def settled(config: Config) -> tuple[Config, Description]:
    """A config.json, of one that reads images the part on text, with its defaults filled in, and its Description.

    Raises InputError for a type that is not known here, and for a setting that would have to be ignored.
    """
    kind = one_of("model_type of config.json", config.get("model_type"), (*DESCRIPTIONS, *IMAGES))
    if kind in IMAGES:
        tied = flag(config, "tie_word_embeddings", True)
        kind, config = IMAGES[kind], {**config, **section(config, "text_config"), "tie_word_embeddings": tied}
    d = DESCRIPTIONS[kind]
    refuse_others(config, kind, d.reads, d.silent)
    given = {name: value for name, value in config.items() if value is not None or name in NULLABLE}
    given |= {name: config[other] for name, other in d.aliases.items() if config.get(other) is not None}
    given = {**d.defaults, **given, "model_type": kind}
    if "use_sliding_window" in d.defaults and not flag(given, "use_sliding_window"):
        given["sliding_window"] = None
    return given, d


def architecture(config: Config, d: Description) -> Architecture:
    """The Architecture that a settled config.json describes.

    Raises InputError for a setting that is missing, is of another kind or does not fit the others.
    """
    of = d.names
    layers, d_model = size(config, of["layers"]), size(config, of["d_model"])
    (heads, key_heads), d_head = _heads(config, d), _d_head(config, d)
    for name, n, most in zip(("layers", "heads", "rows a head"), (layers, heads, d_head), LIMITS, strict=True):
        if n > most:  # before anything of that length is made
            raise InputError(f"config.json must be of a model of at most {most} {name}, got {n}")
    kinds, theta = _kinds(config, d, layers), frequencies_by_kind(config, d, d_head)
    return Architecture(
        model_type=config["model_type"],
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        d_head=d_head,
        d_model=d_model,
        d_mlp=size(config, of["d_mlp"], d.mlp_ratio and d.mlp_ratio * d_model),
        vocabulary=size(config, of["vocabulary"]),
        context=size(config, of["context"]) if "context" in of else context_limit(config, d),
        norm=d.norm,
        epsilon=number(config, of["epsilon"]),
        activation=activation(config, of["activation"]),
        parallel=d.parallel is not None and flag(config, d.parallel),
        divisors=_divisors(config, d, d_head, layers),
        windows=tuple(None if kind == FULL else size(config, "sliding_window") for kind in kinds),
        frequencies=tuple(theta[kind] for kind in kinds),
        score_cap=_cap(config, d, "attn_logit_softcapping"),
        logit_cap=_cap(config, d, "final_logit_softcapping"),
        query_key_norm=d.query_key_norm,
        embedding_scale=float(np.float32(d_model**0.5)) if d.scaled else 1.0,  # in float32, as models are trained
    )


def _heads(config: Config, d: Description) -> tuple[int, int]:
    """How many query heads and key heads there are."""
    heads = size(config, d.names["heads"])
    key_heads = size(config, d.names["key_heads"], heads) if "key_heads" in d.names else heads
    if heads % key_heads:
        names = f"{d.names['heads']} of config.json must be a multiple of {d.names['key_heads']}"
        raise InputError(f"{names}, got {heads} and {key_heads}")
    return heads, key_heads


def _d_head(config: Config, d: Description) -> int:
    """The size of a head: stated where that is allowed, else d_model shared out."""
    if "d_head" in d.names and entry(config, d.names["d_head"]) is not None:
        return size(config, d.names["d_head"])
    d_head = quotient(config, d.names["d_model"], d.names["heads"])
    if size(config, "head_dim", d_head) != d_head:
        parts = f"{d.names['d_model']}/{d.names['heads']}"
        raise InputError(f"head_dim of config.json must be {parts}, {d_head}, got {config['head_dim']}")
    return d_head


def _kinds(config: Config, d: Description, layers: int) -> Sequence[str]:
    """The kind of each layer, with a window or without."""
    usual = d.kinds(config, layers)
    allowed = KINDS if d.by_layer else usual[:1]
    given = entry(config, "layer_types", usual)
    if not isinstance(given, list) or any(kind not in allowed for kind in given):
        words = " or ".join(map(repr, allowed))
        raise InputError(f"layer_types of config.json must all be {words}, got {given!r:.60}")
    if len(given) != layers:
        raise InputError(f"layer_types of config.json must be {layers}, one a layer, got {len(given)}")
    return given


def _divisors(config: Config, d: Description, d_head: int, layers: int) -> tuple[float, ...]:
    """What scores are divided by, layer by layer."""
    stated = number(config, "query_pre_attn_scalar") if "query_pre_attn_scalar" in d.reads else d_head
    divisor = stated**0.5
    if "scale_attn_weights" in d.reads and not flag(config, "scale_attn_weights"):
        divisor = 1.0
    name = "scale_attn_by_inverse_layer_idx"
    by_layer = name in d.reads and flag(config, name)
    return tuple(divisor * (i + 1 if by_layer else 1) for i in range(layers))


def _cap(config: Config, d: Description, name: str) -> float | None:
    return number(config, name) if name in d.reads and config.get(name) is not None else None


def layer_places(a: Architecture, d: Description, i: int, config: Config) -> Places:
    """Where the weights of layer i lie, by the roles that `Checkpoint.layer` names."""
    places: Places = {}
    for role, name in d.layer.items():
        tensor = f"{d.prefix}.{i}.{name}"
        if name is None:
            continue
        if role.endswith("norm"):
            places[role] = norm_places(tensor, a, d)
        elif role.endswith("gain"):
            places[role] = _gain_places(role, tensor, a, d)
        else:
            places |= _linear_places(role, tensor, a, d, config)
    return places


def end_places(a: Architecture, d: Description) -> Places:
    """Where embeddings, final norm and unembedding lie."""
    rows = {"embedding": a.vocabulary, "positions": a.context, "unembedding": a.vocabulary}
    made: Places = {name: Place(f"{d.ends[name]}.weight", (n, a.d_model)) for name, n in rows.items() if name in d.ends}
    return made | {"norm": norm_places(d.ends["norm"], a, d)}


def norm_places(tensor: str, a: Architecture, d: Description) -> Places:
    """Gain and, for a LayerNorm, bias."""
    gain = {"gain": Place(f"{tensor}.weight", (a.d_model,), above_one=d.above_one)}
    return gain if a.norm == "rms" else gain | {"bias": Place(f"{tensor}.bias", (a.d_model,))}


def _gain_places(role: str, tensor: str, a: Architecture, d: Description) -> list[Place]:
    """Gains of the queries or keys of each head: one for all, or each its own rows."""
    heads, H = a.heads if role[0] == "q" else a.key_heads, a.d_head
    shared = a.query_key_norm == "per head"
    whole = Place(f"{tensor}.weight", (H if shared else heads * H,), above_one=d.above_one)
    return [whole if shared else whole._replace(start=h * H, stop=h * H + H) for h in range(heads)]


def _linear_places(role: str, tensor: str, a: Architecture, d: Description, config: Config) -> Places:
    """`W_role` (out, in) and, if there is one, `b_role`; of queries, keys and values those of each head."""
    sizes = _sizes(a)
    joint = [other for other in d.layer if d.layer[other] == d.layer[role]]
    rows, (out, into) = sum(sizes[other][0] for other in joint), sizes[role]
    start = sum(sizes[other][0] for other in joint[: joint.index(role)])
    bias = d.biases.get(role, False)
    whole = {f"W_{role}": Place(f"{tensor}.weight", (into, rows) if d.transposed else (rows, into))}
    whole[f"W_{role}"] = whole[f"W_{role}"]._replace(transposed=d.transposed)
    if flag(config, bias) if isinstance(bias, str) else bias:
        whole[f"b_{role}"] = Place(f"{tensor}.bias", (rows,))
    if role not in "QKV":
        return {key: place._replace(start=start, stop=start + out) for key, place in whole.items()}
    H = a.d_head
    starts = range(start, start + out, H)
    if d.interleaved:
        starts = range(joint.index(role) * H, rows, len(joint) * H)
    return {key: [place._replace(start=i, stop=i + H) for i in starts] for key, place in whole.items()}


def _sizes(a: Architecture) -> dict[str, tuple[int, int]]:
    """Rows and columns of the linear maps of a layer, (out, in), by role."""
    queries, keys = a.heads * a.d_head, a.key_heads * a.d_head
    into = {"Q": queries, "K": keys, "V": keys, "gate": a.d_mlp, "in": a.d_mlp}
    sizes = {role: (rows, a.d_model) for role, rows in into.items()}
    return sizes | {"O": (a.d_model, queries), "out": (a.d_model, a.d_mlp)}
