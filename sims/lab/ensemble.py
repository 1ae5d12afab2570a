"""The ensemble trainer: many members of one model, one compiled program, continued after a kill."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from orbax.checkpoint import v1 as ocp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from svtheory.checks import whole

Member = TypeVar("Member")
Update = Callable[..., tuple[Member, dict[str, Array]]]
Observe = Callable[[Any], dict[str, Array]]


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

    Raises FloatingPointError at the first metric that is not finite, naming it, its step and its member.
    """
    steps, every, chunk = whole("steps", steps, 1), whole("every", every, 1), whole("chunk", chunk, 1)
    records = -(-steps // every)
    calls = -(-records * every // max(chunk, every))
    length = -(-records // calls) * every  # equal chunks leave little of the last one idle
    noted = jax.eval_shape(jax.vmap(update), members, keys, *given)[1]
    if observe is not None:
        noted |= jax.eval_shape(jax.vmap(observe), members)
    history = {name: np.zeros((records, *x.shape), x.dtype) for name, x in noted.items()}
    members = jax.tree.map(jnp.copy, members)  # the copy is donated, the caller's arrays stay
    with ExitStack() as stack:
        saved = stack.enter_context(_checkpointer(checkpoint)) if checkpoint is not None else None
        done, members, history = _restore(saved, members, history)
        bar = stack.enter_context(_progress())
        task = bar.add_task(label, total=steps, completed=done)
        while done < steps:
            members, kept, broken = _advance(update, observe, members, keys, given, done, steps, length, every)
            _stop_if_broken(broken, done, length)
            fresh = slice(done // every, min(done + length, steps + every - 1) // every)
            for name, values in kept.items():
                history[name][fresh] = np.asarray(values)[: fresh.stop - fresh.start]
            done = min(done + length, steps)
            if saved is not None:
                saved.save(done, _on_host({"members": members, "history": history}))
            bar.update(task, completed=done)
    return members, {"step": np.minimum(every * np.arange(1, records + 1), steps), **history}


@partial(jax.jit, static_argnames=("update", "observe", "length", "every"), donate_argnames=("members",))
def _advance(
    update: Update,
    observe: Observe | None,
    members: Any,
    keys: Array,
    given: Any,
    start: Array,
    stop: Array,
    length: int,
    every: int,
) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    """Steps start, ..., start + length - 1 of all members; those from `stop` on change nothing.

    The trip count is fixed, so that a short last chunk is the same program. Returns the members, what is noted of them
    at each `every`-th or last step (length/every, M, ...), and for each metric the first step of the chunk at which it
    is not finite, or `length` (M,).
    """

    def step(members, number):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        stepped, metrics = jax.vmap(update)(members, step_keys, *given)
        return jax.tree.map(partial(jnp.where, number < stop), stepped, members), metrics

    def record(members, first):
        members, metrics = jax.lax.scan(step, members, first + jnp.arange(every))
        return members, (metrics, {} if observe is None else jax.vmap(observe)(members))

    members, (metrics, observed) = jax.lax.scan(record, members, start + jnp.arange(0, length, every))
    metrics = {name: x.reshape(length, -1) for name, x in metrics.items()}
    last = stop - start - 1
    kept = jnp.minimum(jnp.arange(every - 1, length, every), last)
    seen = jnp.arange(length) <= last

    def first_broken(values):
        return jnp.where(seen[:, None] & ~jnp.isfinite(values), jnp.arange(length)[:, None], length).min(axis=0)

    return members, {name: x[kept] for name, x in metrics.items()} | observed, jax.tree.map(first_broken, metrics)


def _stop_if_broken(broken: dict[str, Array], done: int, length: int) -> None:
    """Raise for the earliest metric that is not finite; `broken` counts from step `done`."""
    name, first = min(((name, np.asarray(x)) for name, x in broken.items()), key=lambda item: item[1].min())
    if first.min() < length:
        raise FloatingPointError(f"{name} is not finite at step {done + first.min() + 1} of member {first.argmin()}")


def _checkpointer(folder: Path) -> ocp.training.Checkpointer:
    newest: Any = ocp.training.preservation_policies.LatestN(1)
    return ocp.training.Checkpointer(str(folder.resolve()), preservation_policy=newest, cleanup_tmp_directories=True)


def _restore(
    saved: ocp.training.Checkpointer | None, members: Any, history: dict[str, np.ndarray]
) -> tuple[int, Any, dict[str, np.ndarray]]:
    """The number of steps done, the members and the history at the newest checkpoint, or as given without one."""
    if saved is None or saved.latest is None:
        return 0, members, history
    state = saved.load(saved.latest, _on_host({"members": members, "history": history}))
    return saved.latest.step, jax.tree.map(jnp.asarray, state["members"]), state["history"]


def _on_host(state: Any) -> Any:
    """Numpy arrays: orbax works in threads of its own, where an `enable_x64` of this one does not hold."""
    return jax.tree.map(np.asarray, state)


def _progress() -> Progress:
    """A bar whose time left rests on the chunks after the first, which also compiles."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=3600)
