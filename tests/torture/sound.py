"""What is mutated: small sound files of every kind that svtheory reads, and how each is read."""

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svtheory import HeadBundle, load_heads, read_model, save_heads
from svtheory.checkpoints import read_dictionary, tokenize
from svtheory.instruments.hypothesis_files import read_hypotheses
from tests.svtheory.checkpoints import small_models
from tests.svtheory.checkpoints.test_read_dictionary import FORMATS, W_DEC, written
from tests.svtheory.checkpoints.test_texts import saved

sys.path.append(str(Path(small_models.__file__).parent))  # as pytest does
import other_models

Reading = dict[str, Any]


class Target(NamedTuple):
    """What is mutated: `write(folder)` writes it, `read(folder)` gives arrays and text by name."""

    write: Callable[[Path], None]
    read: Callable[[Path], Reading]


def told(x: Any) -> Reading:
    """The fields of a dataclass or a named tuple by name, those of its fields among them."""
    names = x._fields if isinstance(x, tuple) else [field.name for field in fields(x)]
    found: Reading = {}
    for name in names:
        value = getattr(x, name)
        if hasattr(value, "_fields"):
            found |= {f"{name}.{part}": y for part, y in told(value).items()}
        elif isinstance(value, dict):
            found |= {f"{name}.{part}": value[part] for part in sorted(value)}
        else:
            found[name] = value
    return found


def write_bundle(folder: Path) -> None:
    """With everything that a bundle may hold."""
    rng = np.random.default_rng(0)
    W_Q, W_K = rng.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    b = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    mask = np.arange(7) < np.array([[7], [4], [5], [1]])
    others = {"rope_frequencies": np.array([[1.0, 0.1], [0.5, 0.0]], np.float32), "tokens": np.arange(28).reshape(4, 7)}
    metadata = {"source": "here", "score_divisor": "2, 3", "positional": "rope", "window": "3, 7", "causal": "true"}
    attn_in = rng.normal(size=(2, 4, 7, 5)).astype(np.float32)
    folder.mkdir(parents=True)
    bundle = HeadBundle(W_Q, W_K, *b, attn_in, mask=mask, others=others, metadata=metadata)
    save_heads(folder / "heads.safetensors", bundle)


def read_bundle(folder: Path) -> Reading:
    bundle = load_heads(folder / "heads.safetensors")
    return told(bundle) | {f"head.{name}": x for name, x in told(bundle.head(1, 2)).items()} | {"shown": repr(bundle)}


def model(config: dict[str, Any], weights: dict[str, np.ndarray], shards: int = 1, tokens: Any = None) -> Target:
    """A folder of a model; with tokens, its forward pass."""

    def write(folder: Path) -> None:
        small_models.write(folder, config, weights, shards)

    def read(folder: Path) -> Reading:
        return told(read_model(folder, tokens=tokens))

    return Target(write, read)


def others(kind: str) -> Target:
    return model(other_models.OTHERS[kind], other_models.weights(kind))


def dictionary(name: str) -> Target:
    """As a library writes it."""
    *layout, _, _, _ = FORMATS[name]
    hook = "blocks.5.hook_resid_post" if name == "Gemma Scope" else None
    place: list[Path] = []

    def write(folder: Path) -> None:
        place[:] = [written(folder, *layout).relative_to(folder)]

    def read(folder: Path) -> Reading:
        return told(read_dictionary(folder / place[0], hook))

    return Target(write, read)


def write_features(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", W_DEC.T)


def write_hypotheses(folder: Path) -> None:
    folder.mkdir(parents=True)
    x, y, Z, W = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    arrays = {"template.own": np.eye(5), "template.family": np.stack([np.eye(5)] * 3), "member.family": np.arange(3.0)}
    features = {"query_features": x, "key_features": y, "query_inputs": Z, "key_inputs": W}
    np.savez(folder / "asked.npz", **arrays, **features)


def read_asked(folder: Path) -> Reading:
    hypotheses, inputs = read_hypotheses(folder / "asked.npz")
    found = {f"{i}.{name}": x for i, each in enumerate(hypotheses) for name, x in told(each).items()}
    return found | dict(zip(("query_inputs", "key_inputs"), inputs or (), strict=False))


def write_tokenizer(folder: Path, **kind: bool) -> None:
    folder.mkdir(parents=True)
    saved(folder, **kind)


def read_tokens(folder: Path) -> Reading:
    return {"tokens": tokenize(folder, "ab a b ab ab")}


SMALL = {name: (config, small_models.weights(config)) for name, config in small_models.CONFIGS.items()}
TARGETS: dict[str, tuple[Target, int]] = {
    "bundle": (Target(write_bundle, read_bundle), 1500),
    **{f"model {name}": (model(*given), 800) for name, given in SMALL.items()},
    "model llama in shards": (model(*SMALL["llama"], shards=3), 600),
    **{f"model {kind}": (others(kind), 300) for kind in other_models.OTHERS},
    "model gpt2 that reads": (model(*SMALL["gpt2"], tokens=np.arange(12).reshape(2, 6)), 100),
    **{f"dictionary of {name}": (dictionary(name), 150) for name in FORMATS},
    "features in .npy": (Target(write_features, lambda folder: told(read_dictionary(folder / "features.npy"))), 100),
    "hypotheses": (Target(write_hypotheses, read_asked), 150),
    "tokenizer of words": (Target(write_tokenizer, read_tokens), 150),
    "tokenizer of merges": (Target(partial(write_tokenizer, merges=True, special=True), read_tokens), 150),
}
