"""Dictionaries: the features that a user gives, as a file or folder, or as an array of the bundle itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from svtheory.checkpoints.dictionaries import called, read_dictionary
from svtheory.checkpoints.hub import PREFIX, fetch_dictionary
from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.heads.dictionaries import Dictionary
from svtheory.reports.options import Options

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


def dictionary(name: str, bundle: HeadBundle, place: Place, encoder: bool = False) -> Dictionary:
    """A dictionary that the heads of a bundle can be read with: its features are directions of what they read.

    Raises InputError where it is none, is of another width, lives in the residual stream beside heads whose
    normalisation is not folded in, or in what heads read on the other side of the norm's gain.
    """
    found = _read(name, bundle, place, encoder)
    found.check_width(bundle.W_Q.shape[-1])
    folded = bundle.scoring.folded
    if found.space != "attn_in" and not folded:
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
    return found


def _read(name: str, bundle: HeadBundle, place: Place, encoder: bool) -> Dictionary:
    """The array of that name in the bundle, or the dictionary of a file, a folder or the hub."""
    if name in bundle.others:
        return Dictionary(bundle.others[name].T, "attn_in", source=f"--features {name}")
    path = Path(name)
    if name == EMBEDDING and not path.exists():
        raise InputError(
            f"--features must be given, a FILE or an array of the bundle, which has no {name}, only "
            f"{', '.join(['W_Q', 'W_K', *bundle.others])}"
        )
    if name.startswith(PREFIX):
        path = fetch_dictionary(name)
    return read_dictionary(path, place.hook or None, place.folded, encoder=encoder)
