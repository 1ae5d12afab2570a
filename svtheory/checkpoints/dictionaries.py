"""Dictionaries of others: sparse autoencoders as each library writes them, without torch and without pickle."""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from safetensors import safe_open

from svtheory.checkpoints.dictionary_configs import SUPPORTED, Said, read_config, where
from svtheory.checkpoints.tensors import read_json
from svtheory.checks import InputError
from svtheory.heads.dictionaries import ACTIVATIONS, Dictionary, Encoder, chunks

P = TypeVar("P", bound=PurePath)
WEIGHTS = (
    *("sae_weights.safetensors", "sae.safetensors", "params.safetensors", "params.npz", "ae.safetensors"),
    *("checkpoints/final.safetensors", "final.safetensors", "model.safetensors"),
)
"""The file of a folder that holds a dictionary, by library."""
MODULE = r"\.(?:attention|self_attn|attn|mlp)(?:\.output)?$"
CONFIGS = ("cfg.json", "config.json", "hyperparams.json")
SUFFIXES = (".safetensors", ".npz", ".npy")
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
# the names of each part, and whether its features are rows there
DECODER = {"W_dec": True, "w_dec": True, "decoder.weight": False, "features": False}
ENCODER = {"W_enc": False, "w_enc": False, "encoder.weight": True}
ENCODER_BIAS = ("b_enc", "encoder.bias")
DECODER_BIAS = ("b_dec", "decoder.bias", "bias", "decoder_bias")
GATED = ("b_gate", "gate_bias")


def read_dictionary(
    path: str | Path, hook: str | None = None, folded: bool | None = None, *, encoder: bool = True
) -> Dictionary:
    """The dictionary in a file, or in a folder as its library writes it, with its encoder where there is one.

    SAELens (sae_weights.safetensors and cfg.json, of any version), Gemma Scope (params.npz, or params.safetensors and
    config.json), dictionary_learning (its state dict as safetensors, and config.json), Llama Scope
    (checkpoints/final.safetensors and hyperparams.json), EleutherAI's sparsify (sae.safetensors and cfg.json), Qwen
    Scope (transposed, as safetensors) and arrays in .npy, .npz or .safetensors: `features`, or that of a .npy, with
    features as columns, or W_dec, with features as rows, W_enc, b_enc, b_dec, threshold. Features have the indices that
    they have there; arrays keep their precision, and the `encoder` is left out if it is not asked for.

    hook    where the dictionary lives, as the file may say: a hook point of TransformerLens (blocks.3.hook_resid_pre),
            a module of transformers (model.layers.3: its output), or a space alone (resid_pre, resid_mid, resid_post,
            attn_out, mlp_out, attn_in). Asked for where the file does not say, but for `features`, which live in what
            heads read
    folded  of a dictionary of a normalisation's output: whether it lies before gain and bias (True: they are folded
            into the weights) or after them (False). Asked for where the file does not say; attn_in alone is what heads
            read, however they do

    Raises InputError for a file that is no dictionary of these kinds, one that is pickled, a transcoder, a hook that
    is missing or not the file's, and arrays that do not fit each other.
    """
    file = _file(Path(path))
    arrays = _Arrays(file)
    said = read_config(_config(file), file, "threshold" in arrays and arrays.shape("threshold") != ())
    name, X = _directions(arrays, said.turned)
    space, layer = _where(file, said, hook, name)
    # attn_in is what heads read, however they do; a norm's own output is before or after its gain
    if space == "attn_in" and not (hook or said.hook or "attn_in").endswith("attn_in"):
        folded = _folded(file, said, folded)
    made, without = _encoder(arrays, said, X) if encoder else (None, "")
    bias = _bias(arrays, DECODER_BIAS, X.shape[1])
    of_module = re.search(MODULE, hook or said.hook or "") is not None
    return Dictionary(X.T, space, layer, folded, made, bias / said.scale, without, called(file.resolve()), of_module)


def _file(path: Path) -> Path:
    """The file of the weights: the path, or what its folder holds."""
    if path.is_dir():
        found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
        pickled = next((x for x in sorted(path.iterdir()) if x.suffix in PICKLES), None)
        if found is None and pickled is None:
            raise InputError(f"the dictionary's folder must hold one of {', '.join(WEIGHTS)}, got {str(path)!r}")
        path = found or pickled or path
    refuse_pickle(path, str(path))
    if path.suffix not in SUFFIXES or not path.is_file():
        raise InputError(
            f"FILE must be an existing {', '.join(SUFFIXES)} file, or a folder with a dictionary, got {str(path)!r}"
        )
    return path


def refuse_pickle(path: PurePath, given: str) -> None:
    """Raise InputError for a file that is read by running what it says."""
    if path.suffix in PICKLES:
        raise InputError(
            f"the dictionary must be a {', '.join(SUFFIXES)} file, got {given!r}, a pickle, which could run code: "
            "where you trust it, safetensors.torch.save_file(torch.load(old, weights_only=True), new) rewrites it"
        )


def config_folders(file: P) -> list[P]:
    """Where the config of a file may lie: beside it, or above it where the file lies among checkpoints."""
    return [file.parent, file.parent.parent] if file.parent.name == "checkpoints" else [file.parent]


def _config(file: Path) -> Mapping[str, Any]:
    found = [folder / name for folder in config_folders(file) for name in CONFIGS if os.path.lexists(folder / name)]
    config = read_json(found[0]) if found else {}
    # a model's own, in whose folder a dictionary may lie, says nothing of it
    return {} if "model_type" in config and config["model_type"] != "topk_sae" else config


def called(file: PurePath) -> str:
    """What a dictionary is called: its file, or where that is the same for all, its folder."""
    if file.name in {Path(name).name for name in WEIGHTS}:
        file = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return file.stem if file.suffix in SUFFIXES else file.name


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of a file by name, each read when it is asked for."""

    def __init__(self, file: Path):
        self.file = file
        with self._whole():
            self._shapes = {".safetensors": _tensors, ".npy": _array, ".npz": _archive}[file.suffix](file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, which is not read."""
        return self._shapes[name]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._shapes:  # as a mapping's methods expect
            raise KeyError(name)
        with self._whole():
            if self.file.suffix == ".safetensors":
                with safe_open(self.file, framework="np") as held:
                    array = held.get_tensor(name)
            elif self.file.suffix == ".npy":
                array = np.load(self.file, allow_pickle=False)
            else:
                with self.file.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
                    array = held[name]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"{name} must hold floating-point numbers, got {array.dtype}")
        return array

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever zip, its compressions, numpy and safetensors throw on a file
            raise InputError(f"FILE must hold whole arrays of numbers, got {str(self.file)!r}: {error}") from error


def _tensors(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="np") as held:
        return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118 (not a dict)


def _array(file: Path) -> dict[str, tuple[int, ...]]:
    return {"features": np.load(file, mmap_mode="r", allow_pickle=False).shape}


def _archive(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in an .npz: the headers of its members."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                read = {1: read_array_header_1_0, 2: read_array_header_2_0}.get(read_magic(member)[0])
                if read is None:
                    raise ValueError(f"{name} is of another version")
                found[name.removesuffix(".npy")] = read(member)[0]
    return found


def _directions(arrays: _Arrays, turned: bool) -> tuple[str, np.ndarray]:
    """The name of the decoder and its features as rows, (N, D)."""
    found = [name for name in DECODER if name in arrays]
    if len(found) != 1:
        raise InputError(
            f"FILE must hold one of {', '.join(DECODER)}, as {SUPPORTED} do, got {', '.join(arrays) or 'nothing'}"
        )
    (name,) = found
    X = arrays[name]
    if X.ndim != 2 or not X.size:
        raise InputError(f"{name} must have 2 non-empty axes, got shape {X.shape}")
    rows = DECODER[name] and not _transposed(arrays, X.shape, turned)
    return name, X if rows else X.T


def _transposed(arrays: _Arrays, shape: tuple[int, ...], turned: bool) -> bool:
    """Whether W_dec has features as columns, as in Qwen Scope: the biases know how many of each there are.

    Where both are as many, the config says so.
    """
    N, D = shape
    if N == D:
        return turned
    biases = {"b_enc": (D,), "b_dec": (N,)}
    return any(name in arrays and arrays.shape(name) == at for name, at in biases.items())


def _where(file: Path, said: Said, hook: str | None, name: str) -> tuple[str, int | None]:
    """The space and layer that the file says, or the caller."""
    given, told = (None if x is None else where(x) for x in (hook, said.hook))
    if given is None and told is None:
        if name == "features":
            return "attn_in", None
        raise InputError(
            "hook must say where the dictionary lives, as blocks.3.hook_resid_pre or a space alone (resid_pre, "
            f"resid_mid, resid_post, attn_out, mlp_out, attn_in), which {called(file.resolve())} does not, got none"
        )
    if given is not None and told is not None:
        agree = given[0] == told[0] and (None in (given[1], told[1]) or given[1] == told[1])
        if not agree:
            raise InputError(f"hook must be {said.hook!r}, as {called(file.resolve())} says, got {hook!r}")
        return told if told[1] is not None else given
    return given or told  # pyright: ignore[reportReturnType]


def _folded(file: Path, said: Said, folded: bool | None) -> bool:
    if said.folded is not None and folded not in (None, said.folded):
        raise InputError(f"folded must be {said.folded}, as {called(file.resolve())} says, got {folded}")
    known = said.folded if folded is None else folded
    if known is None:
        raise InputError(
            "folded must say whether the dictionary lies before gain and bias of the normalisation (True) or after "
            f"them (False), which {called(file.resolve())} does not, got none"
        )
    return known


def _encoder(arrays: _Arrays, said: Said, X: np.ndarray) -> tuple[Encoder | None, str]:
    """The encoder, or why there is none; `X` is the decoder (N, D)."""
    name = next((name for name in ENCODER if name in arrays), None)
    if name is None:
        return None, "none"
    kind = "gated" if any(name in arrays for name in GATED) else str(said.activation or "").lower()
    if said.without or kind not in ACTIVATIONS:
        of = f"one with {said.without}" if said.without else f"an activation {kind!r}" if kind else "no activation"
        return None, f"{of}; those read are {', '.join(ACTIVATIONS)} of tokens as they are"
    threshold = _threshold(arrays, said, len(X)) if kind == "jumprelu" else None
    if kind == "jumprelu" and threshold is None:
        return None, "a jumprelu without a threshold"
    if kind == "topk" and (isinstance(said.k, bool) or not isinstance(said.k, int) or said.k < 1):
        return None, f"a topk whose k is {said.k!r}"
    W = arrays[name]
    W = W if W.shape == X.shape and (ENCODER[name] or said.turned or X.shape[0] != X.shape[1]) else W.T
    if W.shape != X.shape:
        raise InputError(
            f"{name} must fit a decoder of {X.shape[0]} features in {X.shape[1]} dimensions, got {W.shape}"
        )
    bias = _bias(arrays, ENCODER_BIAS, len(X))
    if said.subtracts:
        b = _bias(arrays, DECODER_BIAS, X.shape[1])
        bias = bias - np.concatenate([part @ b for part in chunks(W)])
    sizes = np.concatenate([np.linalg.norm(part, axis=1) for part in chunks(X)]) if said.by_length else None
    return Encoder(W, bias / said.scale, kind, threshold, min(said.k, len(X)) if kind == "topk" else None, sizes), ""


def _bias(arrays: _Arrays, names: Sequence[str], size: int) -> np.ndarray:
    """The first of these that there is, in float32 at least; else zeros."""
    name = next((name for name in names if name in arrays), None)
    if name is None:
        return np.zeros(size, np.float32)
    bias = arrays[name]
    if bias.shape != (size,):
        raise InputError(f"{name} must have shape {(size,)}, got {bias.shape}")
    return bias if bias.dtype.itemsize >= 4 else bias.astype(np.float32)


def _threshold(arrays: _Arrays, said: Said, N: int) -> np.ndarray | None:
    """The threshold of each feature; None where there is none, or training never set it: -1 for all of them."""
    told = -1.0 if said.threshold is None else said.threshold
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise InputError(f"threshold must be a number, or one a feature, got {told!r:.60}")
    given = arrays.get("threshold", np.array(told, np.float32))
    if not given.size:
        raise InputError("threshold must be a number, or one a feature, got an empty array")
    return given if given.size > 1 else np.broadcast_to(given.reshape(1), N) if given.min() >= 0 else None
