"""Sources: what an instrument is pointed at, a bundle or a model's folder, and how their heads are read."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from svtheory.checkpoints.attention_only import network
from svtheory.checkpoints.checkpoint import Checkpoint
from svtheory.checkpoints.exporting import read_model
from svtheory.checkpoints.hub import PREFIX, fetch_named
from svtheory.checkpoints.networks import Network
from svtheory.checkpoints.texts import read_text
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle, bundle_file, first_sequences, read_bundle
from svtheory.reports.options import Options, at_least

SEQUENCES = 40  # of a text, and of a bundle whose decisions are compared with random heads


@dataclass(frozen=True)
class Texts(Options):
    """What a model's folder reads."""

    text: str = ""
    """Text file that the model of a folder reads."""
    sequences: Annotated[int | None, at_least(2)] = None
    """Sequences read, at most; none: 40 of a text (trace: 20), all of a bundle where that is no long work."""
    positions: Annotated[int, at_least(2)] = 64
    """Tokens a sequence of the text."""
    prompts: str = ""
    """File of prompts that the model reads in place of a text, one a line, left as they are."""
    bos: bool | None = None
    """Whether sequences begin with the model's BOS token; none: as its tokenizer has it."""


@dataclass(frozen=True)
class Source(Texts):
    """A bundle, or the folder of a model."""

    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]] = ""
    """File of a bundle, its name in $SVTHEORY_REAL_MODELS (../shared/real_models), folder of a model, or
    hf:ORG/MODEL@REVISION on the hub."""

    @property
    def label(self) -> str:
        """What the source is called."""
        return named(self.source)

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle, not the folder of a model or one on the hub."""
        return not self.source.startswith(PREFIX) and not Path(self.source).is_dir()

    def bundle(self, reads: bool = False, sequences: int | None = None, **kept: Any) -> HeadBundle:
        """Its heads; with what they read where there is something, or `reads` asks for it.

        At most as many `sequences`, where the command says nothing else; `kept` is what `read_model` is told besides.
        """
        if not self.source:
            raise InputError("SOURCE must be a bundle or the folder of a model, got none")
        check_source(self.source)
        return read_heads(self.source, dataclasses.replace(self, sequences=self.sequences or sequences), reads, **kept)

    def network(self, bundle: HeadBundle) -> Network:
        """The model that the heads of its `bundle` are of: the folder's, or the bundle's own."""
        if self.source.startswith(PREFIX):
            return Checkpoint(fetch_named(self.source))
        return Checkpoint(self.source) if Path(self.source).is_dir() else network(bundle)


@dataclass(frozen=True)
class Series(Texts):
    """Bundles or folders of one model in the order of training."""

    models: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODELS")]] = ()
    """Files of bundles, folders of checkpoints or hf:ORG/MODEL@REVISION, in the order of training."""

    @property
    def label(self) -> str:
        """What the series is called: its first and its last."""
        return "-".join(dict.fromkeys(named(self.models[i]) for i in (0, -1))) if self.models else "none"


def named(source: str) -> str:
    """The name of a file or folder, without what a bundle's ends with; of a model of the hub, with its revision."""
    if source.startswith(PREFIX):
        return source.partition("/")[2].replace("/", "-")
    return Path(source).resolve().name.removesuffix(".safetensors") if source else "example"


def check_source(name: str, called: str = "SOURCE") -> None:
    """Raise InputError where there is no such file, bundle or folder, under what the command calls it."""
    if not (name.startswith(PREFIX) or Path(name).is_dir() or bundle_file(name).is_file()):
        allowed = f"a bundle's file, its name in $SVTHEORY_REAL_MODELS, the folder of a model or {PREFIX}ORG/MODEL"
        raise InputError(f"{called} must be {allowed}, got {name!r}, which is none")


def read_heads(name: str, texts: Texts, reads: bool = True, **kept: Any) -> HeadBundle:
    """The heads of a bundle, or of a model, in a folder or on the hub, reading a text or prompts, normalisation folded.

    A bundle's first `sequences` are kept, and metadata says of how many, "40 of 96"; a text is cut into as many
    sequences of `positions` tokens. Raises InputError where `reads` asks for what heads read and there is nothing.
    """
    if name.startswith(PREFIX):
        given = _given(texts, reads)  # what is wrong with that is said before anything is fetched
        return read_model(fetch_named(name), **given, **kept)
    if Path(name).is_dir():
        Checkpoint(name)  # a folder that is none says so before a text is asked for
        return read_model(name, **_given(texts, reads), **kept)
    bundle = read_bundle(name)
    if bundle.attn_in is None:
        if reads:
            raise InputError(f"bundle must hold attn_in, what its heads read, got {name!r} without")
        return bundle
    return first_sequences(bundle, texts.sequences)


def check_tokens_differ(bundle: HeadBundle) -> None:
    """Raise InputError where all tokens of a layer are equal: nothing varies."""
    assert bundle.attn_in is not None
    for i, layer in enumerate(bundle.attn_in):
        if np.ptp(layer[bundle.real], axis=0).max() == 0:
            raise InputError(f"attn_in must hold tokens that differ, got equal ones in layer {i}")


def check_values_held(values: np.ndarray) -> None:
    """Raise InputError where singular values (layers, heads, K) have become infinite."""
    lost = ~np.isfinite(values).all(axis=-1)
    if lost.any():
        where = ".".join(map(str, np.unravel_index(np.argmax(lost), lost.shape)))
        raise InputError(f"W_Q and W_K must have singular values that float32 holds, got larger ones in head {where}")


def _given(texts: Texts, reads: bool) -> dict[str, Any]:
    """What `read_model` is told to read."""
    if texts.prompts and texts.text:
        raise InputError(f"--prompts must stand in place of --text, got {texts.prompts!r} beside {texts.text!r}")
    if texts.prompts:
        prompts = [line for line in _content("--prompts", texts.prompts).splitlines() if line.strip()]
        return {"prompts": prompts[: texts.sequences], "bos": texts.bos}
    if not texts.text and not reads:
        return {}
    text = _content("--text", texts.text)
    sequences = texts.sequences or SEQUENCES
    return {"text": text, "positions": texts.positions, "sequences": sequences, "bos": texts.bos}


def _content(option: str, file: str) -> str:
    if not Path(file).is_file():
        raise InputError(f"{option} must be a text file for the model to read, got {file!r}")
    return read_text(Path(file))
