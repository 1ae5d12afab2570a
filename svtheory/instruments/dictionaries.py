"""Dictionaries: the features that a user gives, as a file or as an array of the bundle itself."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from svtheory.checks import InputError
from svtheory.heads.bundles import HeadBundle
from svtheory.instruments.arrays import read_arrays

EMBEDDING = "W_E"
"""The array of a bundle that is its token embedding."""


def dictionary(name: str, bundle: HeadBundle) -> np.ndarray:
    """Features as columns, (D, N), in the order of their file, dead ones among them."""
    if name in bundle.others:
        what, X = f"--features {name}", bundle.others[name].T
    elif name == EMBEDDING and not Path(name).is_file():
        raise InputError(
            f"--features must be given, a FILE or an array of the bundle, which has no {name}, only "
            f"{', '.join(['W_Q', 'W_K', *bundle.others])}"
        )
    else:
        arrays = read_arrays(Path(name), ())
        if ("features" in arrays) == ("W_dec" in arrays):
            raise InputError(f"FILE must hold either features or W_dec, got {', '.join(arrays)}")
        what, X = "FILE", arrays["features"] if "features" in arrays else arrays["W_dec"].T
    D = bundle.W_Q.shape[-1]
    finite = jnp.issubdtype(X.dtype, jnp.floating) and np.isfinite(X.astype(np.float32)).all()
    if X.ndim != 2 or X.shape[0] != D or not finite:
        turned = X.ndim == 2 and X.shape[1] == D != X.shape[0]
        hint = ", which looks transposed: features are columns of `features`, rows of W_dec" if turned else ""
        raise InputError(
            f"{what} must hold finite features, D x N with D = {D} as in the bundle, got {X.dtype} {X.shape}{hint}"
        )
    if not X.any():
        raise InputError(f"{what} must hold a feature that is not zero, got none")
    return X
