"""Sources: what an instrument is pointed at, a bundle or a model's folder, and how their heads are read."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from svtheory.checkpoints.checkpoint import Checkpoint
from svtheory.checkpoints.exporting import bundle_heads
from svtheory.checkpoints.hub import tokenize
from svtheory.checkpoints.texts import read_text
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle, load_heads
from svtheory.reports.options import Options, at_least

MODELS = Path(os.environ.get("SVTHEORY_REAL_MODELS", Path(__file__).parents[2] / "../shared/real_models"))

SEQUENCES = 40  # of a text, and of a bundle whose decisions are compared with random heads


@dataclass(frozen=True)
class Texts(Options):
    """What a model's folder reads."""

    text: str = ""
    """Text file that the model of a folder reads."""
    sequences: Annotated[int | None, at_least(2)] = None
    """Sequences read, at most; none: 40 of a text, all of a bundle where that is no long work."""
    positions: Annotated[int, at_least(2)] = 64
    """Tokens a sequence of the text."""


@dataclass(frozen=True)
class Source(Texts):
    """A bundle, or the folder of a model."""

    source: tyro.conf.Positional[str] = ""
    """File of a bundle, its name in $SVTHEORY_REAL_MODELS (../shared/real_models), or folder of a model."""

    @property
    def label(self) -> str:
        """What the source is called."""
        return named(self.source)

    def bundle(self, reads: bool = False, sequences: int | None = None) -> HeadBundle:
        """Its heads; with what they read where there is something, or `reads` asks for it.

        At most as many `sequences`, where the command says nothing else.
        """
        if not self.source:
            raise InputError("SOURCE must be a bundle or the folder of a model, got none")
        return read_heads(self.source, dataclasses.replace(self, sequences=self.sequences or sequences), reads)


@dataclass(frozen=True)
class Series(Texts):
    """Bundles or folders of one model in the order of training."""

    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODELS")]] = ()
    """Files of bundles or folders of checkpoints, in the order of training."""

    @property
    def label(self) -> str:
        """What the series is called: its first and its last."""
        return "-".join(dict.fromkeys(named(self.models[i]) for i in (0, -1))) if self.models else "none"


def named(source: str) -> str:
    """The name of a file or folder, without what a bundle's ends with."""
    return Path(source).resolve().name.removesuffix(".safetensors") if source else "example"


def bundle_file(name: str) -> Path:
    """The path `name`, or the bundle of that name among the models of others."""
    return next((path for path in (Path(name), MODELS / f"{name}.safetensors") if path.is_file()), Path(name))


def read_heads(name: str, texts: Texts, reads: bool = True) -> HeadBundle:
    """The heads of a bundle, or of a model's folder reading a text file, normalisation folded.

    A bundle's first `sequences` are kept; a text is cut into as many sequences of `positions` tokens. Raises
    InputError where `reads` asks for what heads read and there is nothing.
    """
    if Path(name).is_dir():
        checkpoint = Checkpoint(name)
        return bundle_heads(checkpoint, _tokens(name, texts) if texts.text or reads else None, folded=True)
    bundle = load_heads(bundle_file(name))
    if bundle.attn_in is None:
        if reads:
            raise InputError(f"bundle must hold attn_in, what its heads read, got {name!r} without")
        return bundle
    read, tokens = bundle.attn_in[:, : texts.sequences], bundle.others.get("tokens")
    cut = {} if tokens is None or len(tokens) != bundle.attn_in.shape[1] else {"tokens": tokens[: texts.sequences]}
    return dataclasses.replace(bundle, attn_in=read, others={**bundle.others, **cut})


def check_tokens_differ(attn_in: np.ndarray) -> None:
    """Raise InputError where a layer's tokens, of (layers, sequences, positions, D), are all equal: nothing varies."""
    constant = np.ptp(attn_in, axis=(1, 2)).max(axis=1) == 0
    if constant.any():
        raise InputError(f"attn_in must hold tokens that differ, got equal ones in layer {constant.argmax()}")


def check_values_held(values: np.ndarray) -> None:
    """Raise InputError where singular values (layers, heads, K) have become infinite."""
    lost = ~np.isfinite(values).all(axis=-1)
    if lost.any():
        where = ".".join(map(str, np.unravel_index(np.argmax(lost), lost.shape)))
        raise InputError(f"W_Q and W_K must have singular values that float32 holds, got larger ones in head {where}")


def _tokens(folder: str, texts: Texts) -> np.ndarray:
    if not Path(texts.text).is_file():
        raise InputError(f"--text must be a text file for the checkpoint to read, got {texts.text!r}")
    tokens = np.array(tokenize(folder, read_text(Path(texts.text))))
    if len(tokens) < texts.positions:
        raise InputError(f"--text must hold at least {texts.positions} tokens, one sequence, got {len(tokens)}")
    rows = min(texts.sequences or SEQUENCES, len(tokens) // texts.positions)
    return tokens[: rows * texts.positions].reshape(rows, texts.positions)
