"""Bundles: the heads of a model as one safetensors file, read without executing anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from svtheory.checks import InputError, index, one_of
from svtheory.heads.weights import Head
from svtheory.rotary import PAIRINGS

AXES = {"W_Q": 4, "W_K": 4, "b_Q": 3, "b_K": 3, "attn_in": 4}
REQUIRED = ("W_Q", "W_K")


@dataclass(frozen=True, eq=False)
class HeadBundle:
    """The heads of one model.

    W_Q, W_K   shape (layers, heads, d_head, d_model), one W_K a query head: expand grouped keys first
    b_Q, b_K   shape (layers, heads, d_head), or None
    attn_in    what W_Q and W_K read, shape (layers, sequences, positions, d_model), or None
    others     any further arrays, by name
    metadata   text by name: source, licence, task, positional scheme, score_divisor, ...

    Raises InputError for arrays that are misshapen, empty, not floating-point or not finite.
    """

    W_Q: np.ndarray
    W_K: np.ndarray
    b_Q: np.ndarray | None = None
    b_K: np.ndarray | None = None
    attn_in: np.ndarray | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name, ndim in AXES.items():
            if name in REQUIRED or getattr(self, name) is not None:
                object.__setattr__(self, name, _checked(name, getattr(self, name), ndim))
        if self.W_Q.shape != self.W_K.shape:
            raise InputError(f"W_K must have the shape of W_Q, {self.W_Q.shape}, got {self.W_K.shape}")
        for name in ("b_Q", "b_K"):
            if (bias := getattr(self, name)) is not None and bias.shape != self.W_Q.shape[:3]:
                raise InputError(f"{name} must have shape {self.W_Q.shape[:3]}, got {bias.shape}")
        layers, d_model = self.W_Q.shape[0], self.W_Q.shape[3]
        if self.attn_in is not None and (self.attn_in.shape[0], self.attn_in.shape[3]) != (layers, d_model):
            raise InputError(f"attn_in must have {layers} layers and d_model {d_model}, got shape {self.attn_in.shape}")
        if strange := [x for pair in self.metadata.items() for x in pair if not isinstance(x, str)]:
            raise InputError(f"metadata must map text to text, got {strange[0]!r}")
        _ = self.score_divisor

    @property
    def score_divisor(self) -> float:
        """What scores are divided by before the softmax: the metadata's `score_divisor`, else sqrt(d_head)."""
        text = self.metadata.get("score_divisor", str(self.W_Q.shape[2] ** 0.5))
        try:
            divisor = float(text)
        except ValueError:
            divisor = 0.0
        if not 0 < divisor < np.inf:
            raise InputError(f"score_divisor must be a positive number, got {text!r}")
        return divisor

    @property
    def query_bias(self) -> np.ndarray:
        """Which heads have a query bias that is not zero, shape (layers, heads): they centre their queries (T6)."""
        return np.zeros(self.W_Q.shape[:2], bool) if self.b_Q is None else (self.b_Q != 0).any(axis=-1)

    def head(self, layer: int, head: int) -> Head:
        """One head, with its biases, score divisor and, where metadata `positional` is "rope", its rotary positions.

        Plane h is rotated by the h-th of `rope_frequencies` among `others`, in radians a position, else by
        `rope_base^(-2h/rope_dims)` (metadata; by default base 10000 and all rows), its rows paired as `rope_pairing`
        says ("half-split"); `folded` "True" marks weights with the normalisation folded in.
        Raises InputError for a head that is not there or metadata that makes no sense.
        """
        at = index("layer", layer, self.W_Q.shape[0]), index("head", head, self.W_Q.shape[1])
        b_Q, b_K = (None if b is None else b[at] for b in (self.b_Q, self.b_K))
        return Head(
            self.W_Q[at],
            self.W_K[at],
            b_Q,
            b_K,
            self._frequencies(),
            one_of("rope_pairing", self.metadata.get("rope_pairing", "half-split"), PAIRINGS),
            self.score_divisor,
            self.metadata.get("folded") == "True",
        )

    def _frequencies(self) -> np.ndarray | None:
        if self.metadata.get("positional") != "rope":
            return None
        if "rope_frequencies" in self.others:
            return self.others["rope_frequencies"]
        d_head = self.W_Q.shape[2]
        given = [self.metadata.get(name, default) for name, default in (("rope_dims", d_head), ("rope_base", 10000))]
        try:
            dims, base = int(given[0]), float(given[1])
        except ValueError:
            dims, base = 0, 0.0
        if not (0 < dims <= d_head and dims % 2 == 0 and 0 < base < np.inf):
            raise InputError(f"rope_dims must be even and at most {d_head}, rope_base positive, got {given}")
        return base ** -(np.arange(0, dims, 2) / dims)


def _checked(name: str, given: Any, ndim: int) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != ndim or array.size == 0:
        raise InputError(f"{name} must have {ndim} non-empty axes, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} must hold real floating-point numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {int((~np.isfinite(array)).sum())} entries that are not")
    return array


def load_heads(path: str | Path) -> HeadBundle:
    """Read a bundle: a safetensors file with at least W_Q and W_K, (layers, heads, d_head, d_model).

    Raises InputError for a file that is missing, truncated, not safetensors, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"bundle must be a safetensors file, got {str(path)!r}, which is no file")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"bundle must be a whole safetensors file, got {str(path)!r}: {error}") from error
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise InputError(f"bundle must hold W_Q and W_K, got {str(path)!r} without {' and '.join(missing)}")
    named = {name: arrays.pop(name) for name in AXES if name in arrays}
    return HeadBundle(**named, others=arrays, metadata=metadata)


def save_heads(path: str | Path, bundle: HeadBundle) -> None:
    """Write a bundle as one safetensors file; loaded again, its arrays and metadata are those saved.

    Raises InputError for a path that cannot be written.
    """
    named = {name: getattr(bundle, name) for name in AXES}
    given = dict(bundle.others) | {name: array for name, array in named.items() if array is not None}
    arrays = {name: np.ascontiguousarray(array) for name, array in given.items()}  # safetensors ignores strides
    try:
        save_file(arrays, Path(path), metadata=dict(bundle.metadata))
    except (SafetensorError, OSError) as error:
        raise InputError(f"path must be a file that can be written, got {str(path)!r}: {error}") from error
