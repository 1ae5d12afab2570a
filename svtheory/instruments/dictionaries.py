"""Dictionaries: the features that a user gives, as a file or folder, or as an array of the bundle itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from svtheory.checkpoints.dictionaries import called, read_dictionary
from svtheory.checkpoints.hub import PREFIX, fetch_dictionary
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.dictionaries import Dictionary
from svtheory.reports.options import Options

POST_NORMED = ("gemma2", "gemma3_text", "olmo2")
"""Types whose layers normalise what attention and MLP give out before it is added to the stream."""
EMBEDDING = "W_E"
"""The array of a bundle that is its token embedding."""


@dataclass(frozen=True)
class Place(Options):
    """Where a dictionary lives, where its file does not say."""

    hook: Annotated[str, tyro.conf.arg(metavar="HOOK")] = ""
    """Where the dictionary lives, if its file does not say: blocks.3.hook_resid_pre, model.layers.3, or resid_pre,
    resid_mid, resid_post, attn_out, mlp_out, attn_in alone."""
    folded: bool | None = None
    """Whether a dictionary of a norm's output lies before its gain and bias, if its file does not say."""


def named(features: str) -> str:
    """What the dictionary is called in names of runs."""
    return called(Path(features.partition("@")[0] if features.startswith(PREFIX) else features))


def dictionary(name: str, bundle: HeadBundle, place: Place) -> Dictionary:
    """A dictionary that the heads of a bundle can be read with, of a file, or an array of the bundle, without encoder.

    Raises InputError as `read_features` and `check_fits` do.
    """
    if name in bundle.others:
        found = Dictionary(_columns(bundle, name), "attn_in", source=f"--features {name}")
    elif name == EMBEDDING and not Path(name).exists():
        raise InputError(
            f"--features must be given, a FILE or an array of the bundle, which has no {name}, only "
            f"{', '.join(['W_Q', 'W_K', *bundle.others])}"
        )
    else:
        found = read_features(name, place)
    check_fits(found, bundle)
    return found


def _columns(bundle: HeadBundle, name: str) -> np.ndarray:
    """An array of the bundle with features as columns: its rows, but an embedding's columns where it is (out, in).

    Where metadata `orientation` does not say so, columns are taken where they alone have as many entries as heads read.
    """
    x, D = bundle.others[name], bundle.W_Q.shape[-1]
    outward = name == EMBEDDING and bundle.metadata.get("orientation") == "out, in"
    turned = x.ndim == 2 and x.shape[0] == D and (outward or x.shape[1] != D)
    return x if turned else x.T


def taken_for(found: Dictionary) -> str:
    """What an instrument takes the features of a dictionary for, in a sentence."""
    place = "what heads read" if found.space == "attn_in" else found.space
    layer = "" if found.layer is None else f" of layer {found.layer}"
    return f"The {found.features.shape[1]} features of {found.source} are taken for directions of {place}{layer}."


def read_features(name: str, place: Place, encoder: bool = False) -> Dictionary:
    """The dictionary of a file, a folder or the hub; raises InputError where it is none."""
    path = fetch_dictionary(name) if name.startswith(PREFIX) else Path(name)
    return read_dictionary(path, place.hook or None, place.folded, encoder=encoder)


def check_fits(found: Dictionary, bundle: HeadBundle) -> None:
    """Raise InputError unless features are directions of what the heads of a bundle read.

    That is for a dictionary of another width, one of the residual stream beside heads that read after a norm's gain,
    and one of what heads read that lies on the other side of that gain.
    """
    found.check_width(bundle.W_Q.shape[-1])
    if found.of_module and (kind := bundle.metadata.get("architecture")) in POST_NORMED:
        raise InputError(
            f"the dictionary must live in the residual stream or what is written to it, as blocks.3.hook_{found.space} "
            f"is, got a module that a {kind} normalises once more"
        )
    folded, norm = bundle.scoring.folded, bundle.metadata.get("norm", "")
    if found.space != "attn_in" and not folded and not norm.startswith("none"):
        raise InputError(
            f"heads must have their normalisation folded in beside a dictionary of {found.space}, got ones that read "
            "after its gain; what these read is --hook attn_in"
        )
    if found.folded not in (None, folded):
        side = {True: "before", False: "after"}
        raise InputError(
            f"the dictionary must live {side[folded]} the gain of the normalisation, as what these heads read, got one "
            f"{side[not folded]} it"
        )
