"""Bundles: the heads of a model as one safetensors file, read without executing anything."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from svtheory.checks import InputError, index, whole
from svtheory.heads.description import described
from svtheory.heads.scoring import VERSION, Scoring, check_version, read_scoring
from svtheory.heads.weights import Head, Norm

AXES = {"W_Q": 4, "W_K": 4, "b_Q": 3, "b_K": 3, "attn_in": 4}
NAMED = (*AXES, "mask")
REQUIRED = ("W_Q", "W_K")
READING = ("sequences", "tokens_left_over")
"""Metadata in which readers say how much they have read."""
MODELS = Path(os.environ.get("SVTHEORY_REAL_MODELS", Path(__file__).parents[2] / "../shared/real_models"))


@dataclass(frozen=True, eq=False, repr=False)
class HeadBundle:
    """The heads of one model; printed, it says on one screen what it holds.

    W_Q, W_K   shape (layers, heads, d_head, d_model), one W_K a query head: expand grouped keys first
    b_Q, b_K   shape (layers, heads, d_head), or None
    attn_in    what W_Q and W_K read, shape (layers, sequences, positions, d_model), or None
    mask       True where a position holds a token, False where it is padding behind the last one of its sequence, shape
               (sequences, positions); None is no padding
    others     any further arrays, by name
    metadata   text by name: source, licence, task, ..., and the keys of docs/bundles.md, whose values are checked

    Arrays in half precision become float32 (float64 where that is on); metadata then says in `weights_dtype` how the
    weights were stored. Arrays of PyTorch are taken as they are.
    Raises InputError for arrays that are misshapen, empty, not floating-point or not finite, for a mask that does not
    fit attn_in, hides more than ends or stands beside heads that are not causal, for others under the name of one of
    these, and for metadata that is not text or has a value that is not allowed.

    >>> W = np.ones((2, 3, 4, 5), np.float32)
    >>> HeadBundle(W, W, metadata={"source": "here", "score_divisor": "2, 4"})
    HeadBundle
      sizes          layers 2, heads 3, d_head 4, d_model 5
      biases         none
      positions      not rotated
      scores         divided by 2, 4; causal
      weights        float32
      attn_in        none: what heads read is not here
      source         here
    """

    W_Q: np.ndarray
    W_K: np.ndarray
    b_Q: np.ndarray | None = None
    b_K: np.ndarray | None = None
    attn_in: np.ndarray | None = None
    mask: np.ndarray | None = field(default=None, kw_only=True)
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        given = {name: host_array(name, x) for name in AXES if (x := getattr(self, name)) is not None}
        if missing := [name for name in REQUIRED if name not in given]:
            raise InputError(f"{missing[0]} must be an array, got None")
        for name, array in given.items():
            object.__setattr__(self, name, _checked(name, array, AXES[name]))
        self._check_shapes()
        if taken := [name for name in self.others if name in NAMED]:
            raise InputError(f"others must not hold {taken[0]}, which is an array of the bundle's own")
        object.__setattr__(self, "others", {name: host_array(name, x) for name, x in self.others.items()})
        if strange := [x for pair in self.metadata.items() for x in pair if not isinstance(x, str)]:
            raise InputError(f"metadata must map text to text, got {strange[0]!r}")
        coarsest = max((given[name].dtype for name in REQUIRED), key=lambda dtype: float(jnp.finfo(dtype).eps))
        if jnp.finfo(coarsest).bits < 32:
            object.__setattr__(self, "metadata", {**self.metadata, "weights_dtype": coarsest.name})
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, self.attn_in, self.scoring.causal))
        _ = self.scoring

    def _check_shapes(self) -> None:
        layers, _, d_head, d_model = self.W_Q.shape
        if self.W_Q.shape != self.W_K.shape:
            grouped = self.W_K.shape[1] < self.W_Q.shape[1] and self.W_Q.shape[1] % self.W_K.shape[1] == 0
            hint = ": repeat each key head for its group of query heads" if grouped else ""
            raise InputError(f"W_K must have the shape of W_Q, {self.W_Q.shape}, got {self.W_K.shape}{hint}")
        for name in ("b_Q", "b_K"):
            if (bias := getattr(self, name)) is not None and bias.shape != self.W_Q.shape[:3]:
                raise InputError(f"{name} must have shape {self.W_Q.shape[:3]}, got {bias.shape}")
        if self.attn_in is not None and (self.attn_in.shape[0], self.attn_in.shape[3]) != (layers, d_model):
            turned = " (are W_Q and W_K (in, out)? here they are (out, in))" if self.attn_in.shape[3] == d_head else ""
            raise InputError(
                f"attn_in must have {layers} layers and d_model {d_model}, got shape {self.attn_in.shape}{turned}"
            )

    def __repr__(self) -> str:
        return described(self)

    @property
    def real(self) -> np.ndarray:
        """Which positions of `attn_in` hold tokens, shape (sequences, positions): all where there is no mask.

        Raises InputError for a bundle without attn_in.
        """
        if self.attn_in is None:
            raise InputError("bundle must hold attn_in, what its heads read, got one without")
        return np.ones(self.attn_in.shape[1:3], bool) if self.mask is None else self.mask

    @cached_property
    def scoring(self) -> Scoring:
        """What metadata says of how scores are made, checked."""
        return read_scoring(self.metadata, self.others, self.W_Q.shape)

    @property
    def score_divisor(self) -> float:
        """What scores are divided by before the softmax: the metadata's `score_divisor`, else sqrt(d_head).

        Raises InputError where layers divide by different numbers: `scoring.divisors` has them all.
        """
        divisors = self.scoring.divisors
        if len(set(divisors)) > 1:
            raise InputError(f"score_divisor must be one number for all layers to be asked for, got {divisors}")
        return divisors[0]

    @property
    def epsilon(self) -> float:
        """Relative rounding of the weights as they were stored, before they came to this precision."""
        stored = self.scoring.weights_dtype or self.W_Q.dtype
        return max(float(jnp.finfo(dtype).eps) for dtype in (stored, self.W_Q.dtype, self.W_K.dtype))

    def check_bilinear(self) -> None:
        """Raise InputError where queries and keys are normalised, for what is not known then (T23)."""
        if self.scoring.query_key_norm != "none":
            raise InputError(
                f"query_key_norm must be 'none' where it is asked what training makes of a head, whose norms would "
                f"move with its weights, got {self.scoring.query_key_norm!r}"
            )

    @property
    def query_bias(self) -> np.ndarray:
        """Which heads have a query bias that is not zero, shape (layers, heads): they centre their queries (T6)."""
        return np.zeros(self.W_Q.shape[:2], bool) if self.b_Q is None else (self.b_Q != 0).any(axis=-1)

    def head(self, layer: int, head: int) -> Head:
        """One head, with its biases and all that the metadata says of its scores (see docs/bundles.md).

        Biases that are 0 in all heads, as exporters write them, are none.
        Where metadata `positional` is "rope", plane h is rotated by the h-th of `rope_frequencies` among `others`, in
        radians a position, for all layers or by layer, else by `rope_base^(-2h/rope_dims)` (by default base 10000 and
        all rows), its rows paired as `rope_pairing` says ("half-split").
        A query-key norm takes its gains from `q_gain` and `k_gain` among `others`, 1 where they are not.
        Raises InputError for a head that is not there, or a bias that is not 0 beside a query-key norm.
        """
        at = index("layer", layer, self.W_Q.shape[0]), index("head", head, self.W_Q.shape[1])
        b_Q, b_K = (None if b is None or not b.any() else b[at] for b in (self.b_Q, self.b_K))
        scoring = self.scoring
        return Head(
            self.W_Q[at],
            self.W_K[at],
            b_Q,
            b_K,
            None if scoring.frequencies is None else scoring.frequencies[layer],
            scoring.pairing,
            scoring.divisors[layer],
            scoring.folded,
            scoring.causal,
            scoring.windows[layer],
            scoring.cap,
            self._norm("q_gain", self.W_Q, at),
            self._norm("k_gain", self.W_K, at),
        )

    def _norm(self, name: str, W: np.ndarray, at: tuple[int, int]) -> Norm | None:
        """The norm of the queries or keys of one head (T23)."""
        epsilon = self.scoring.query_key_epsilon
        if epsilon is None:
            return None
        gain = self.others[name][at] if name in self.others else np.ones(W.shape[2], W.dtype)
        together = self.scoring.query_key_norm == "all heads"
        return Norm(gain, epsilon, W[at[0]].reshape(-1, W.shape[3]) if together else None)


def host_array(name: str, given: Any) -> np.ndarray:
    """An array of numbers in this machine's memory, of numpy, JAX or PyTorch (whose bfloat16 numpy cannot take)."""
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{name} must be an array without a mask, got a masked one")
    try:
        if hasattr(given, "detach"):  # of PyTorch
            given = given.detach().cpu()
            if "bfloat16" in str(given.dtype):
                return np.asarray(given.float()).astype(jnp.bfloat16)
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be an array of numbers, got {type(given).__name__}: {error}") from error
    if array.dtype == object or (array.dtype.kind in "USV" and array.dtype != jnp.bfloat16):
        raise InputError(f"{name} must be an array of numbers, got {array.dtype}")
    return array


def _checked(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    if array.ndim != ndim or array.size == 0:
        raise InputError(f"{name} must have {ndim} non-empty axes, got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{name} must hold real floating-point numbers, got {array.dtype}")
    if jnp.finfo(array.dtype).bits < 32:
        array = array.astype(jnp.result_type(float))
    # layer by layer: a truth value for each entry of a large array is large too
    if lost := sum(int((~np.isfinite(layer)).sum()) for layer in array):
        raise InputError(f"{name} must be finite, got {lost} entries that are not")
    return array


def _checked_mask(given: Any, attn_in: np.ndarray | None, causal: bool) -> np.ndarray:
    mask = host_array("mask", given)
    shape = None if attn_in is None else attn_in.shape[1:3]
    if shape is None or not causal:
        beside = "attn_in" if shape is None else "heads that are causal: others see the padding"
        raise InputError(f"mask must stand beside {beside}, got one without")
    if mask.dtype != bool or mask.shape != shape:
        raise InputError(f"mask must hold True or False, of shape {shape}, got {mask.dtype} of shape {mask.shape}")
    if not mask[:, 0].all() or (mask[:, 1:] & ~mask[:, :-1]).any():
        raise InputError("mask must be True from the first position of each sequence to its last token, got gaps")
    return mask


def load_heads(path: str | Path) -> HeadBundle:
    """Read a bundle: a safetensors file with at least W_Q and W_K, (layers, heads, d_head, d_model).

    Metadata `bundle_version` says which version of docs/bundles.md the file follows; without it, the first.
    Raises InputError for a file that is missing, truncated, not safetensors, lacks an array, is of a newer version, or
    is no HeadBundle.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"bundle must be a safetensors file, got {str(path)!r}, which is no file")
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(sorted((file.metadata() or {}).items()))  # they come in an order that differs each time
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # whatever safetensors throws on a file
        raise InputError(f"bundle must be a whole safetensors file, got {str(path)!r}: {error}") from error
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise InputError(f"bundle must hold W_Q and W_K, got {str(path)!r} without {' and '.join(missing)}")
    named = {name: arrays.pop(name) for name in NAMED if name in arrays}
    check_version(metadata.pop("bundle_version", "1"))
    return HeadBundle(**named, others=arrays, metadata=metadata)


def read_bundle(source: str | Path, sequences: int | None = None) -> HeadBundle:
    """The bundle in this file, or of this name in the folder `$SVTHEORY_REAL_MODELS`, by default ../shared/real_models.

    Of what its heads read the first `sequences` are kept; None keeps all. What metadata in the file say of an earlier
    reading, such as how many sequences that took, is left out. Raises InputError as `load_heads` does, for
    less than one sequence, and for sequences of a bundle without attn_in.
    """
    count = None if sequences is None else whole("sequences", sequences, 1)
    found = load_heads(bundle_file(source))
    if any(name in found.metadata for name in READING):
        said = {name: text for name, text in found.metadata.items() if name not in READING}
        found = replace(found, metadata=said)
    return first_sequences(found, count)


def first_sequences(bundle: HeadBundle, count: int | None) -> HeadBundle:
    """A bundle with the first sequences of what its heads read; metadata says of how many, "40 of 96", if not all.

    None keeps all. Raises InputError for a bundle without attn_in.
    """
    if count is None or count >= len(bundle.real):
        return bundle
    assert bundle.attn_in is not None
    number = len(bundle.real)
    cut = {
        name: bundle.others[name][:count]
        for name in ("tokens", "residual")
        if name in bundle.others and len(bundle.others[name]) == number
    }
    read, mask = bundle.attn_in[:, :count], None if bundle.mask is None else bundle.mask[:count]
    metadata = {**bundle.metadata, "sequences": f"{count} of {number}"}
    return replace(bundle, attn_in=read, mask=mask, others={**bundle.others, **cut}, metadata=metadata)


def bundle_file(source: str | Path) -> Path:
    """The path `source`, or the bundle of that name in `$SVTHEORY_REAL_MODELS` where there is one and no such file."""
    named = MODELS / f"{source}.safetensors"
    return named if named.is_file() and not Path(source).is_file() else Path(source)


def save_heads(path: str | Path, bundle: HeadBundle) -> None:
    """Write a bundle as one safetensors file; loaded again, its arrays and metadata are those saved.

    Raises InputError for a path that cannot be written.
    """
    named = {name: getattr(bundle, name) for name in NAMED}
    given = dict(bundle.others) | {name: array for name, array in named.items() if array is not None}
    arrays = {name: np.ascontiguousarray(array) for name, array in given.items()}  # safetensors ignores strides
    try:
        save_file(arrays, Path(path), metadata={**bundle.metadata, "bundle_version": str(VERSION)})
    except (SafetensorError, OSError) as error:
        raise InputError(f"path must be a file that can be written, got {str(path)!r}: {error}") from error
