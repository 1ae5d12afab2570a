"""Mutators: what may become of a file on its way: bytes that change, headers and settings that are garbled."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ABSURD = (
    *(None, True, "", "x", "../../x", "nan", [], [[]], {}, {"a": 1}, -1, 0, 1, 2, 3, 7, 1.5, -0.5, 1e-30, 1e30),
    *(1_000_000_000, 2**31, 2**63, 10**30, float("nan"), float("inf"), [0], [-1, 1], [1e9], "\0", "\ud800", "ü" * 99),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "X", "")
NUMBERS = (0, 1, 2, 3, 5, 24, -1, 2**31, 2**53, 2**63, 2**64, 10**30, 1.5, "3", None)

Mutator = Callable[[Path, np.random.Generator], str]


def flipped(file: Path, rng: np.random.Generator) -> str:
    """A bit, or a few."""
    content, number = bytearray(file.read_bytes()), int(rng.choice([1, 1, 1, 2, 20]))
    for place in rng.integers(len(content), size=number):
        content[place] ^= 1 << rng.integers(8)
    file.write_bytes(content)
    return f"{number} bits of {file.name} flipped"


def cut(file: Path, rng: np.random.Generator) -> str:
    """Its end, or a piece out of it."""
    content = file.read_bytes()
    first, last = np.sort(rng.integers(len(content) + 1, size=2))
    file.write_bytes(content[:first] + (content[last:] if rng.uniform() < 0.4 else b""))
    return f"{file.name} cut at {first}, {last}"


def grown(file: Path, rng: np.random.Generator) -> str:
    """Bytes that do not belong there."""
    content, extra = file.read_bytes(), rng.bytes(int(rng.integers(1, 100)))
    place = int(rng.choice([0, len(content), rng.integers(len(content) + 1)]))
    file.write_bytes(content[:place] + extra + content[place:])
    return f"{len(extra)} bytes put into {file.name} at {place}"


def replaced(file: Path, rng: np.random.Generator) -> str:
    """Something else altogether."""
    kinds = {
        "nothing": b"",
        "text": b"Not found",
        "a pointer of git": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "zeros": bytes(4096),
        "numbers": rng.bytes(999),
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/run'\ntR.",
        "brackets": b"[" * 100_000,
        "a long number": b'{"n_layer": ' + b"9" * 10_000 + b"}",
        "a length of everything": b"\xff" * 8 + file.read_bytes()[8:],
    }
    kind = str(rng.choice(list(kinds)))
    file.write_bytes(kinds[kind])
    return f"{file.name} replaced by {kind}"


def moved(file: Path, rng: np.random.Generator) -> str:
    """Gone, a folder in its place, a link to itself or to nothing."""
    kind = str(rng.choice(["gone", "a folder", "a link to itself", "a link to nothing", "a pipe"][:4]))
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    elif kind.startswith("a link"):
        file.symlink_to(file if kind.endswith("itself") else file.with_name("nothing"))
    return f"{file.name}: {kind}"


def garbled(file: Path, rng: np.random.Generator) -> str:
    """JSON in which one thing, however deep, is another, gone or there twice under a new name."""
    content = json.loads(file.read_text(encoding="utf-8"))
    told = _garble(content, rng)
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"{file.name}: {told}"


def _garble(content: Any, rng: np.random.Generator, values: tuple[Any, ...] = ABSURD) -> str:
    """Change a random place of nested lists and dicts."""
    holder: Any = content
    where: list[Any] = []
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[rng.integers(len(keys))]
        where.append(key)
        if not (isinstance(holder[key], dict | list) and len(holder[key]) and rng.uniform() < 0.8):
            break
        holder = holder[key]
    chance, place = rng.uniform(), "/".join(map(str, where))[:80]
    if chance < 0.15:
        del holder[key]
        return f"{place} gone"
    if chance < 0.2 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
        return f"{place} renamed"
    holder[key] = values[rng.integers(len(values))]
    return f"{place} = {ascii(holder[key])[:60]}"


def reheaded(file: Path, rng: np.random.Generator) -> str:
    """A safetensors file whose header says something else of its tensors, their types, shapes, places or text."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    chosen = header[names[rng.integers(len(names))]]
    kind = int(rng.integers(4))
    if kind == 0:
        told = _garble(header, rng)
    elif kind == 1:
        chosen["dtype"] = told = DTYPES[rng.integers(len(DTYPES))]
    else:
        numbers = chosen[("shape", "data_offsets")[kind - 2]]
        told = _garble(numbers, rng, NUMBERS) if numbers else "nothing"
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    size = len(text) if rng.uniform() < 0.9 else int(rng.integers(2**40))
    file.write_bytes(struct.pack("<Q", size) + text + content[8 + length :])
    return f"header of {file.name}: {told}, length {size}"


def stored_again(file: Path, rng: np.random.Generator) -> str:
    """An .npz or .npy whose arrays are of other kinds, other shapes or not finite."""
    arrays = dict(np.load(file)) if file.suffix == ".npz" else {"": np.load(file)}
    name = list(arrays)[rng.integers(len(arrays))]
    x = arrays[name]
    kinds = {
        "integers": lambda: x.astype(np.int64),
        "half": lambda: x.astype(np.float16),
        "complex": lambda: x.astype(np.complex64),
        "text": lambda: x.astype(str),
        "objects": lambda: x.astype(object),
        "records": lambda: np.zeros(x.shape, [("a", "f4"), ("b", "i8")]),
        "dates": lambda: np.zeros(x.shape, "M8[s]"),
        "flat": lambda: x.ravel(),
        "turned": lambda: np.asfortranarray(x.T),
        "empty": lambda: x[:0],
        "deep": lambda: x[(None,) * 20],
        "NaN": lambda: x * np.nan,
        "large": lambda: x.astype(np.float64) * 1e300,
        "big-endian": lambda: x.astype(">f4"),
        "zeros": lambda: 0 * x,
    }
    kind = str(rng.choice(list(kinds)))
    arrays[name] = kinds[kind]()
    np.savez(file, **arrays) if file.suffix == ".npz" else np.save(file, arrays[""])
    return f"{name} of {file.name}: {kind}"


def mutators(file: Path) -> tuple[Mutator, ...]:
    """What may become of a file of this kind."""
    own: dict[str, tuple[Mutator, ...]] = {
        ".json": (garbled,) * 6,
        ".safetensors": (reheaded,) * 5,
        ".npz": (stored_again,) * 3,
        ".npy": (stored_again,) * 3,
    }
    return (flipped, flipped, cut, grown, replaced, moved, *own.get(file.suffix, ()))
