"""The ensemble trainer: many members of one model, one compiled program, continued after a kill."""

import hashlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, PartitionSpec
from orbax.checkpoint import v1 as ocp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sims.engines import devices
from svtheory.checks import InputError, whole
from svtheory.progress import logged
from svtheory.reports import memory
from svtheory.reports.runs import REMEDY, atomic

Member = TypeVar("Member")
Update = Callable[..., tuple[Member, dict[str, Array]]]
Observe = Callable[[Any], dict[str, Array]]

SEAL = ("content", "generator")
DIGEST = "sha256"  # file of a checkpoint with the checksum of the others


def train(
    update: Update,
    members: Member,
    keys: Array,
    steps: int,
    *given: Any,
    every: int = 1,
    observe: Observe | None = None,
    chunk: int = 500,
    checkpoint: Path | None = None,
    label: str = "training",
) -> tuple[Member, dict[str, np.ndarray]]:
    """Train all members for `steps` steps; returns them and the history of their metrics.

    `update(member, key, *given) -> (member, metrics)` is one step of one member, `metrics` a dict of scalars. `members`
    is a pytree whose leaves have a leading axis of size M, `keys` one key a member, shape (M,). Step number n of a
    member sees `fold_in(its key, n)`, so results do not depend on chunks, nor on a kill in between. What a member reads
    and never changes is `given`: pytrees with a leading axis of size M too, neither carried along nor saved.

    The history holds every metric after steps `every`, `2 every`, ... and the last, shape (records, M), and those
    numbers under "step", shape (records,); with `observe(member) -> dict of arrays` also what that says of the member
    then, shape (records, M, ...). A chunk of about `chunk` steps is one call of one compiled program, after
    which progress is shown and, where `checkpoint` names a folder, everything is saved there; a folder that holds a
    checkpoint is continued. The compiled program is kept for further calls with the same `update`.

    Members are spread over all devices (`sims.engines.devices`), and run in waves where they would take more memory
    than is allowed; neither changes a result by more than rounding, and a checkpoint continues on another number of
    devices, though not with other waves. Memory is shown from the start, speed after a hundredth of the first chunk.

    Raises FloatingPointError at the first metric that is not finite, naming it, its step and its member, and InputError
    for a checkpoint that cannot be read, is not as it was saved or was made with another random-number generator.
    """
    steps, every, chunk = whole("steps", steps, 1), whole("every", every, 1), whole("chunk", chunk, 1)
    records = -(-steps // every)
    calls = -(-records * every // max(chunk, every))
    length = -(-records // calls) * every  # equal chunks: a progress bar moves evenly
    program = _Program(update, observe, steps, every, length)
    waves = program.waves(members, keys, given)
    if len(waves) == 1:
        return _wave(program, members, keys, given, 0, checkpoint, label)
    parts = [
        _wave(
            program,
            *(jax.tree.map(lambda x, wave=wave: x[wave], tree) for tree in (members, keys, given)),
            first=wave.start,
            checkpoint=checkpoint and checkpoint / f"members-{wave.start}-{wave.stop}",
            label=f"{label}, wave {number} of {len(waves)}",
        )
        for number, wave in enumerate(waves, 1)
    ]
    trained = jax.tree.map(lambda *xs: jnp.concatenate(xs), *(members for members, _ in parts))
    step = parts[0][1].pop("step")
    return trained, {"step": step} | {
        name: np.concatenate([history[name] for _, history in parts], axis=1) for name in parts[0][1]
    }


@dataclass(frozen=True)
class _Program:
    """`steps` steps of an update in chunks of at most `length`, the same for all waves of members."""

    update: Update
    observe: Observe | None
    steps: int
    every: int
    length: int

    def arguments(self, members: Any, keys: Array, given: Any, start: int = 0, stop: int = 0) -> tuple[Any, ...]:
        """Of `_advance`."""
        static = self.length, self.every, devices.mesh(len(keys))
        return self.update, self.observe, members, keys, given, start, stop, *static

    def waves(self, members: Any, keys: Array, given: Any) -> list[slice]:
        """Equal parts of the members, each of which fits into memory."""
        M, limit = len(keys), devices.max_bytes()
        if limit == np.inf:
            return [slice(0, M)]
        needed = self.needed(*devices.spread((members, keys, given), devices.mesh(M)))
        size = -(-M // max(1, math.ceil(needed / limit)))
        return [slice(first, min(first + size, M)) for first in range(0, M, size)]

    def needed(self, members: Any, keys: Array, given: Any) -> float:
        """Bytes that the compiled program takes on each device."""
        return devices.bytes_of(_lower(*self.arguments(members, keys, given)).compile())

    def chunks(self, done: int) -> Iterator[tuple[int, int]]:
        """First step and end of each chunk that is left; a hundredth of one comes first: it tells how long all take."""
        stop = min(done + self.every * -(-self.length // self.every // 100), self.steps)
        while done < self.steps:
            yield done, stop
            done, stop = stop, min(stop + self.length, self.steps)


class _History:
    """What is noted of M members after steps `every`, `2 every`, ... and the last: `step` (R,), arrays (R, M, ...)."""

    def __init__(self, program: _Program, members: int, noted: dict[str, jax.ShapeDtypeStruct]):
        records = -(-program.steps // program.every)
        self.every, self.members = program.every, members
        self.step = np.minimum(program.every * np.arange(1, records + 1), program.steps)
        shapes = {name: (records, members, *x.shape[2:]) for name, x in noted.items()}
        held = sum(math.prod(shape) * noted[name].dtype.itemsize for name, shape in shapes.items())
        if held > (free := memory.available()):
            raise InputError(
                f"the history of {program.steps} steps must fit into {free / 1e9:.3g} GB of memory, "
                f"got {held / 1e9:.3g} GB"
            )
        self.arrays = {name: np.zeros(shape, noted[name].dtype) for name, shape in shapes.items()}

    def write(self, start: int, stop: int, kept: dict[str, np.ndarray]) -> None:
        """The records of steps start, ..., stop - 1."""
        fresh = slice(start // self.every, -(-stop // self.every))
        for name, values in kept.items():
            self.arrays[name][fresh] = values[: self.members, : fresh.stop - fresh.start].swapaxes(0, 1)


def _wave(
    program: _Program, members: Any, keys: Array, given: Any, first: int, checkpoint: Path | None, label: str
) -> tuple[Any, dict[str, np.ndarray]]:
    """Train members that fit into memory; `first` is the number of the first of them."""
    M, mesh = len(keys), devices.mesh(len(keys))
    keys, given = devices.spread((keys, given), mesh)
    noted = _shapes(*program.arguments(devices.spread(members, mesh), keys, given))[1]
    history = _History(program, M, noted)
    with _checkpointer(checkpoint) as saved, _progress(label, program.steps) as show:
        done, members = _restore(saved, members, keys, history)
        members = devices.spread(members, mesh)  # a copy, which is donated: the caller's arrays stay
        needed = program.needed(members, keys, given)
        devices.check_memory(needed, mesh, (members, keys, given))
        show(done, f"{needed / 1e6:.0f} MB a device")
        for start, stop in program.chunks(done):
            began = time.perf_counter()
            members, kept, broken = _advance(*program.arguments(members, keys, given, start, stop))
            kept, broken = devices.gathered((kept, broken))
            _stop_if_broken(broken, start, program.length, first)
            history.write(start, stop, kept)
            rate = M * (stop - start) / (time.perf_counter() - began)
            _save(saved, stop, members, keys, history)
            left = timedelta(seconds=round(M * (program.steps - stop) / rate))
            show(stop, f"{left} left, {rate:,.0f} model-steps/s")
    return devices.first_of(devices.gathered(members), M), {"step": history.step, **history.arrays}


@partial(
    jax.jit,
    static_argnames=("update", "observe", "length", "every", "mesh"),
    donate_argnames=("members",),
    compiler_options={"xla_cpu_prefer_vector_width": 512},  # half as much where there are no such registers
)
def _advance(
    update: Update,
    observe: Observe | None,
    members: Any,
    keys: Array,
    given: Any,
    start: Any,
    stop: Any,
    length: int,
    every: int,
    mesh: Mesh,
) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    """Steps start, ..., stop - 1 of all members, each device its own, no more than `length`.

    Loops are of fixed length, so that a short chunk is the same program; records past `stop` are skipped. Returns the
    members, what is noted of them at each `every`-th or last step (M, length/every, ...), and for each metric the first
    step of the chunk at which it is not finite, or `length` (M,).
    """
    own, alike = devices.MEMBERS, PartitionSpec()

    def advance(members, keys, given, start, stop):
        step, largest = _traced(update, members, keys, given)
        size = devices.together(largest, len(keys), mesh)
        course = partial(_course, step, observe, length, every, start, stop)
        return jax.lax.map(lambda one: course(*one), (members, keys, given), batch_size=size)

    # each device runs its members by itself: nothing is exchanged, and no member depends on how many devices there are
    split = {"in_specs": (own, own, own, alike, alike), "out_specs": own, "check_vma": False}
    return jax.shard_map(advance, mesh=mesh, **split)(members, keys, given, start, stop)


# what the same trace and the same compilation also tell
_shapes, _lower = _advance.eval_shape, _advance.lower


def _traced(update: Update, members: Any, keys: Array, given: Any) -> tuple[Update, int]:
    """The same update, traced for one member, and the bytes of the largest array on its way."""
    one = jax.tree.map(lambda x: x[0], (members, keys, *given))
    jaxpr, result = jax.make_jaxpr(update, return_shape=True)(*one)
    run, form = jaxpr_as_fun(jaxpr), jax.tree.structure(result)
    made = [value.aval for equation in jaxpr.eqns for value in equation.outvars]
    largest = max((x.size * x.dtype.itemsize for x in made), default=0)
    return lambda *arguments: jax.tree.unflatten(form, run(*jax.tree.leaves(arguments))), largest


def _course(
    update: Update,
    observe: Observe | None,
    length: int,
    every: int,
    start: Array,
    stop: Array,
    member: Any,
    key: Array,
    given: Any,
) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    """Steps of one member."""

    def step(member, number):
        stepped, metrics = update(member, jax.random.fold_in(key, number), *given)
        return jax.tree.map(partial(jnp.where, number < stop), stepped, member), metrics

    def record(member, first):
        member, metrics = jax.lax.scan(step, member, first + jnp.arange(every))
        return member, (metrics, {} if observe is None else observe(member))

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(record, member, start)[1])

    def record_if_due(member, first):
        return jax.lax.cond(first < stop, record, lambda member, _: (member, nothing), member, first)

    member, (metrics, observed) = jax.lax.scan(record_if_due, member, start + jnp.arange(0, length, every))
    metrics = {name: x.reshape(length) for name, x in metrics.items()}
    last = stop - start - 1
    kept = jnp.minimum(jnp.arange(every - 1, length, every), last)
    number = jnp.arange(length)

    def first_broken(values):
        return jnp.where((number <= last) & ~jnp.isfinite(values), number, length).min()

    return member, {name: x[kept] for name, x in metrics.items()} | observed, jax.tree.map(first_broken, metrics)


def _stop_if_broken(broken: dict[str, np.ndarray], done: int, length: int, first: int) -> None:
    """Raise for the earliest metric that is not finite; `broken` counts from step `done` and member `first`."""
    name, at = min(broken.items(), key=lambda item: item[1].min())
    if at.min() < length:
        raise FloatingPointError(f"{name} is not finite at step {done + at.min() + 1} of member {first + at.argmin()}")


@contextmanager
def _checkpointer(folder: Path | None) -> Iterator[ocp.training.Checkpointer | None]:
    """What saves to a folder, if one is given; of several processes all take part, and the first writes."""
    if folder is None:
        yield None
        return
    newest: Any = ocp.training.preservation_policies.LatestN(1)
    place, log = devices.agreed_path(folder.resolve()), logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what orbax reports there, at length, it also raises
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _of_no_leftover
    try:
        with ocp.training.Checkpointer(str(place), preservation_policy=newest, cleanup_tmp_directories=True) as saved:
            yield saved
    except ValueError as error:  # of tensorstore, which names the system's error in its text, if it is one
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(place)) from error
    finally:
        log.setLevel(level)


def _of_no_leftover(unraisable: Any) -> None:
    """Print an exception that nobody can catch, unless it is of a write that outlived another that failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _restore(saved: ocp.training.Checkpointer | None, members: Any, keys: Array, history: _History) -> tuple[int, Any]:
    """The number of steps done and the members at the newest checkpoint, its history read; as given without one.

    Raises InputError for a checkpoint that cannot be read, is not what was saved, or drew from another generator.
    """
    if saved is None or saved.latest is None:
        return 0, members
    given = {"members": members, "history": history.arrays}
    place = _step_folder(saved, saved.latest.step)
    # before orbax opens them: loads that fail leave threads behind, which print as they end
    if (place / DIGEST).exists() and (place / DIGEST).read_bytes() != _digest(place):
        raise InputError(f"checkpoint {saved.directory} is not as it was saved: its files have changed; {REMEDY}")
    try:
        state = saved.load(saved.latest, _on_host(given | _seal(given, keys)))
    except Exception as error:  # whatever orbax and tensorstore throw on a file
        raise InputError(f"checkpoint {saved.directory} cannot be read ({type(error).__name__}); {REMEDY}") from error
    seal = {name: state.pop(name) for name in SEAL}
    expected = _seal(state, keys)
    if not np.array_equal(seal["content"], expected["content"]):
        raise InputError(f"checkpoint {saved.directory} is not as it was saved: its checksum is another; {REMEDY}")
    if not np.array_equal(seal["generator"], expected["generator"]):
        raise InputError(
            f"checkpoint {saved.directory} was made with another random-number generator than "
            f"{jax.random.key_impl(keys)}; set jax_default_prng_impl as it was, {REMEDY}"
        )
    history.arrays = state["history"]
    return saved.latest.step, state["members"]


def _save(saved: ocp.training.Checkpointer | None, done: int, members: Any, keys: Array, history: _History) -> None:
    """Keep members, split among devices, and their history as they are after `done` steps."""
    if saved is not None:
        state = jax.tree.map(lambda x: x[: history.members], devices.gathered(members))
        state = {"members": state, "history": history.arrays}
        saved.save(done, state | _seal(state, keys))
        if devices.leads():
            place = _step_folder(saved, done)
            with atomic(place / DIGEST) as path:
                path.write_bytes(_digest(place))


def _step_folder(saved: ocp.training.Checkpointer, step: int) -> Path:
    """Where the checkpoint after so many steps lies."""
    return Path(str(saved.directory)) / str(step)


def _digest(folder: Path) -> bytes:
    """A checksum of the files of a checkpoint and their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and DIGEST not in path.name):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest().encode()


def _seal(state: Any, keys: Array) -> dict[str, np.ndarray]:
    """Checksums by which a flipped bit is found, and another generator of random numbers, (32,) bytes each."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        content.update(np.ascontiguousarray(leaf).tobytes())
    generator = hashlib.sha256(str(jax.random.key_impl(keys)).encode())
    digests = {"content": content, "generator": generator}
    return {name: np.frombuffer(digest.digest(), np.uint8) for name, digest in digests.items()}


def _on_host(state: Any) -> Any:
    """Numpy arrays: orbax works in threads of its own, where an `enable_x64` of this one does not hold."""
    return jax.tree.map(np.asarray, state)


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """What shows how many steps are done, and a note: a bar, or lines in a log; the first of several processes does."""
    console = Console(stderr=True, force_jupyter=False)  # a notebook would need ipywidgets
    if not devices.leads() or sys.stderr is None:
        yield lambda done, note: None
    elif not console.is_terminal:
        say = logged()
        yield lambda done, note: say(f"{label}: {done} of {total} steps, {note}")
    else:
        columns = TextColumn("{task.description}"), BarColumn(12), TextColumn("{task.completed}/{task.total} steps,")
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
