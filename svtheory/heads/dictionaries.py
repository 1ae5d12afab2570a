"""Dictionaries: features as directions in what a model carries, and the encoder that says which are active where.

`z = act(W_enc x + b)` and `x = W_dec z + b_dec + error`: of whatever convention a file is, its biases and scales are
brought to this form when it is read.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from svtheory.checks import InputError, one_of

SPACES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn_in")
"""Where a dictionary may live: the residual stream before, within or after a layer, what a layer's attention or MLP
writes to it, or what its heads read, normalised."""
RESIDUAL = SPACES[:-1]
"""Those whose directions are directions of the residual stream."""
ACTIVATIONS = ("relu", "jumprelu", "topk")
CHUNK = 4096
"""Features that are looked at together: of an array in half precision so many are in float32 at once."""


class Encoder(NamedTuple):
    """What makes activations of tokens, `z = act(W x + b)`.

    weight      W, (N, D)
    bias        b, (N,)
    activation  "relu": `max(y, 0)`; "jumprelu": y where `y > threshold` and y > 0; "topk": the k largest y, if positive
    threshold   (N,), of "jumprelu"
    k           of "topk"
    sizes       (N,), what y is multiplied by before it is compared, the lengths of the decoder's directions where
                training counted those; None is 1
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: str
    threshold: np.ndarray | None = None
    k: int | None = None
    sizes: np.ndarray | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """A dictionary of N features, in the order of its file, in a space of D dimensions.

    features      directions as columns, (D, N), as they are stored, dead ones, which are 0, in their place
    space         where it lives, one of SPACES
    layer         whose, or None where nothing says so
    folded        of "attn_in": whether it is read before the gain and bias of the normalisation, which are then in the
                  weights, or after them; None is as the heads read it
    encoder       what makes activations of tokens, or None
    decoder_bias  what a reconstruction adds, (D,), or None
    without       why there is no encoder that can be used, or nothing
    source        what it is called
    of_module     whether it lives in what attention or MLP give out, before a norm of their own if the layer has one

    Arrays may be in half precision; whatever is made of them is float32, or as the tokens are.
    Raises InputError for features that are not (D, N), finite and somewhere not 0, for an unknown space, and for an
    encoder that does not fit them.

    >>> Dictionary(np.eye(3)[:, :2], "resid_post", layer=4)
    Dictionary of 2 features in 3 dimensions, resid_post of layer 4, without an encoder
    """

    features: np.ndarray
    space: str
    layer: int | None = None
    folded: bool | None = None
    encoder: Encoder | None = None
    decoder_bias: np.ndarray | None = None
    without: str = ""
    source: str = "dictionary"
    of_module: bool = False

    def __post_init__(self):
        one_of("space", self.space, SPACES)
        X = self.features
        if X.ndim != 2 or not X.size or not jnp.issubdtype(X.dtype, jnp.floating):
            raise InputError(f"features must be floating-point numbers (D, N), got {X.dtype} of shape {X.shape}")
        alive = False
        for part in chunks(X.T):
            if not np.isfinite(part).all():
                raise InputError(f"features must be finite, got {int((~np.isfinite(part)).sum())} entries that are not")
            alive = alive or bool(part.any())
        if not alive:
            raise InputError(f"{self.source} must hold a feature that is not zero, got none")
        if self.encoder is not None:
            _check(self.encoder, X.shape)
        if self.decoder_bias is not None and self.decoder_bias.shape != X.shape[:1]:
            raise InputError(f"decoder_bias must have shape {X.shape[:1]}, got {self.decoder_bias.shape}")
        if self.decoder_bias is not None and not np.isfinite(self.decoder_bias.astype(np.float32)).all():
            raise InputError("decoder_bias must be finite, got NaN or infinity")

    def __repr__(self) -> str:
        D, N = self.features.shape
        of = "" if self.layer is None else f" of layer {self.layer}"
        encoder = "without an encoder" if self.encoder is None else f"encoder {self.encoder.activation}"
        return f"Dictionary of {N} features in {D} dimensions, {self.space}{of}, {encoder}"

    @property
    def dead(self) -> np.ndarray:
        """The indices of features that are 0."""
        return np.flatnonzero(~np.concatenate([part.any(axis=1) for part in chunks(self.features.T)]))

    @property
    def reader(self) -> int | None:
        """The layer whose heads read what it reconstructs, or None: what layers write is only part of that."""
        after = {"resid_pre": 0, "attn_in": 0, "resid_post": 1}.get(self.space)
        return None if after is None or self.layer is None else self.layer + after

    def check_width(self, D: int) -> None:
        """Raise InputError unless features have D dimensions."""
        if self.features.shape[0] != D:
            turned = ", which looks transposed" if self.features.shape[1] == D else ""
            raise InputError(
                f"{self.source} must hold features of {D} dimensions, as the model has, got "
                f"{self.features.shape[0]} x {self.features.shape[1]}{turned}"
            )

    def encode(self, tokens: np.ndarray) -> scipy.sparse.csr_array:
        """The activations of tokens (n, D), as a sparse matrix (n, N) of their dtype.

        Raises InputError for a dictionary without an encoder and for tokens of other dimensions.
        """
        if self.encoder is None:
            raise InputError(f"{self.source} must have an encoder to be read with, got {self.without or 'none'}")
        if tokens.ndim != 2 or tokens.shape[1] != self.features.shape[0]:
            raise InputError(f"tokens must have shape (n, {self.features.shape[0]}), got {tokens.shape}")
        return _encoded(self.encoder, tokens)

    def columns(self, indices: np.ndarray) -> np.ndarray:
        """Some features, (D, n), in float32, or float64 where they are stored so."""
        return _wide(self.features[:, indices])


def chunks(rows: np.ndarray) -> Any:
    """The rows of an array, CHUNK at a time, in float32 at least."""
    return (_wide(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK))


def _wide(x: np.ndarray) -> np.ndarray:
    return x if x.dtype.itemsize >= 4 else x.astype(np.float32)


def _check(encoder: Encoder, shape: tuple[int, ...]) -> None:
    """Raise InputError unless the encoder fits features of this shape (D, N)."""
    D, N = shape
    one_of("activation", encoder.activation, ACTIVATIONS)
    given = {"weight": (N, D), "bias": (N,), "threshold": (N,), "sizes": (N,)}
    for name, expected in given.items():
        x = getattr(encoder, name)
        if x is not None and x.shape != expected:
            raise InputError(f"the encoder's {name} must have shape {expected}, got {x.shape}")
        if x is not None and not all(np.isfinite(part).all() for part in chunks(x)):
            raise InputError(f"the encoder's {name} must be finite, got entries that are not")
    if encoder.activation == "jumprelu" and encoder.threshold is None:
        raise InputError("threshold must be given for a jumprelu, got none")
    if encoder.activation == "topk" and not (isinstance(encoder.k, int) and 0 < encoder.k <= N):
        raise InputError(f"k must be a whole number from 1 to {N} for a topk, got {encoder.k!r}")


def _encoded(encoder: Encoder, tokens: np.ndarray) -> scipy.sparse.csr_array:
    """Chunk after chunk of features: dense activations of all of them would be large."""
    N, dtype, found, start = len(encoder.weight), tokens.dtype, [], 0
    k = N if encoder.activation != "topk" or encoder.k is None else encoder.k
    for weight in chunks(encoder.weight):
        here = slice(start, start + len(weight))
        y = tokens @ weight.T.astype(dtype) + encoder.bias[here].astype(dtype)
        compared = y if encoder.sizes is None else y * encoder.sizes[here].astype(dtype)
        active = y > 0
        if encoder.threshold is not None:
            active &= compared > encoder.threshold[here].astype(dtype)
        if k < len(weight):  # what is not among the k largest of a chunk is not among those of all
            active &= compared >= np.partition(compared, -k, axis=1)[:, [-k]]
        row, column = np.nonzero(active)
        found.append((row, column + start, y[row, column], compared[row, column]))
        start += len(weight)
    row, column, values, compared = (np.concatenate(x) for x in zip(*found, strict=True))
    order = np.lexsort((-compared, row))  # by row, the largest first
    kept = order[np.arange(len(row)) - np.searchsorted(row[order], row[order]) < k]
    return scipy.sparse.csr_array((values[kept], (row[kept], column[kept])), (len(tokens), N))
