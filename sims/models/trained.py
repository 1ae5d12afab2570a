"""Transformers trained once and shared: experiments with the same `--out` and recipe read the same models."""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from safetensors import safe_open
from safetensors.numpy import save_file

from sims.engines.ensemble import train
from sims.models.tasks import TASKS, Task, task
from sims.models.transformer import ROTARY_BASE, Transformer, TransformerShape, adamw
from svtheory import HeadBundle
from svtheory.checks import InputError, one_of
from svtheory.reports.options import Options, above, at_least
from svtheory.reports.runs import alone, atomic

# kept of a training, in hundredths of its steps: what emerges does so early, over decades
SNAPSHOTS = np.unique(np.geomspace(1, 100, 24).round().astype(int))


@dataclass(frozen=True)
class Recipe(Options):
    """What transformers are trained on, and how.

    heads None is as many as the task has matches; rate is AdamW's peak rate and decay its decoupled weight decay.
    """

    task: str
    members: Annotated[int, at_least(1)] = 8
    steps: Annotated[int, at_least(1)] = 2000
    batch: Annotated[int, at_least(1)] = 128
    rate: Annotated[float, above(0)] = 2e-3
    decay: Annotated[float, at_least(0)] = 0.6
    seed: int = 0
    heads: int | None = None
    positions: str = "learned"
    normalise: bool = False
    biases: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.steps % SNAPSHOTS[-1]:
            raise InputError(f"--steps must be a multiple of {SNAPSHOTS[-1]}, got {self.steps}")

    @property
    def given(self) -> Task:
        """The task."""
        return task(self.task)

    @property
    def shape(self) -> TransformerShape:
        """As many layers as the task needs."""
        heads = self.given.heads if self.heads is None else self.heads
        options = {name: getattr(self, name) for name in ("positions", "normalise", "biases")}
        return TransformerShape(self.given.layers, heads, **options)


@dataclass(frozen=True)
class TransformerOptions(Options):
    """Options of an experiment on these models, which it shares with others of the same options."""

    ARRAYS = ("members 100 4096",)

    tasks: tuple[str, ...] = ("attributes",)
    """Tasks to train on."""
    members: Annotated[int, at_least(2)] = 2  # a spread takes two
    """Members (seeds) of each task."""
    steps: int = 800
    """Training steps, a multiple of 100."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self):
        super().__post_init__()
        if not self.tasks:
            raise InputError("--tasks must name at least one")
        for name in self.tasks:
            one_of("--tasks", name, tuple(TASKS))
        _ = self.recipe(self.tasks[0])

    def recipe(self, task: str, **variant: Any) -> Recipe:
        """What is trained on a task."""
        return Recipe(task, members=self.members, steps=self.steps, seed=self.seed, **variant)


class Trained(NamedTuple):
    """Models of one recipe: parameters by name, (snapshots, members, ...), the first before training.

    steps (snapshots,) says after how many; seconds of wall and processor time, of the part after a kill alone.
    """

    recipe: Recipe
    parameters: dict[str, np.ndarray]
    steps: np.ndarray
    seconds: float
    processor_seconds: float

    def model(self, member: int, snapshot: int = -1) -> dict[str, Array]:
        """The parameters of one model, by default fully trained."""
        return {name: jnp.asarray(x[snapshot, member]) for name, x in self.parameters.items()}


def trained(recipe: Recipe, out: Path) -> Trained:
    """The models of this recipe: read from the folder `out/transformers`, or trained now and kept there."""
    text = json.dumps([asdict(recipe), asdict(recipe.shape)], sort_keys=True)
    path = out / "transformers" / f"{recipe.task}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if not path.is_file():
        checkpoint = path.with_suffix(".checkpoint")
        with alone(checkpoint):  # another experiment may need the same models now
            _keep(path, _train(recipe, checkpoint))
            shutil.rmtree(checkpoint, ignore_errors=True)
    seconds, arrays = _kept(path)
    return Trained(recipe, arrays, arrays.pop("steps"), *seconds)


def _kept(path: Path) -> tuple[list[float], dict[str, np.ndarray]]:
    """Seconds and arrays of a file; raises InputError for one that cannot be read or is not as it was saved."""
    try:
        with safe_open(path, framework="np") as file:
            told = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        seconds = json.loads(told["seconds"])
    except Exception as error:  # whatever safetensors and json throw on a file
        raise InputError(f"{path} cannot be read ({type(error).__name__}); remove it") from error
    if told.get("content", content := _content(arrays)) != content:
        raise InputError(f"{path} is not as it was saved: its checksum is another; remove it")
    return seconds, arrays


def _content(arrays: dict[str, np.ndarray]) -> str:
    """A checksum of arrays and their names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _keep(path: Path, models: Trained) -> None:
    arrays = models.parameters | {"steps": models.steps}
    metadata = {
        "recipe": json.dumps(asdict(models.recipe)),
        "seconds": json.dumps([models.seconds, models.processor_seconds]),
        "content": _content(arrays),
    }
    with atomic(path) as temporary:
        save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, temporary, metadata)


def _train(recipe: Recipe, checkpoint: Path) -> Trained:
    """One ensemble, its parameters before training and at the snapshots."""
    began = time.perf_counter(), time.process_time()
    start, update = adamw(recipe.given, recipe.shape, batch=recipe.batch, steps=recipe.steps)
    first, second = (jax.random.split(key, recipe.members) for key in jax.random.split(jax.random.key(recipe.seed)))
    members = jax.jit(jax.vmap(partial(start, rate=jnp.array(recipe.rate), decay=jnp.array(recipe.decay))))(first)
    given = {"every": recipe.steps // SNAPSHOTS[-1], "observe": _parameters, "checkpoint": checkpoint}
    _, seen = train(update, members, second, recipe.steps, chunk=recipe.steps // 4, label=recipe.task, **given)
    return Trained(
        recipe,
        {name: np.concatenate([x[None], seen[name][SNAPSHOTS - 1]]) for name, x in members["parameters"].items()},
        np.concatenate([[0], seen["step"][SNAPSHOTS - 1]]),
        time.perf_counter() - began[0],
        time.process_time() - began[1],
    )


def _parameters(member: dict[str, Any]) -> dict[str, Array]:
    return member["parameters"]


def transformer(recipe: Recipe, parameters: dict[str, Array]) -> Transformer:
    """The module of a recipe with these parameters."""
    build = partial(Transformer, recipe.given, recipe.shape)
    return nnx.merge(nnx.graphdef(jax.eval_shape(lambda: build(rngs=nnx.Rngs(0)))), parameters)


def bundle(
    models: Trained, member: int, reads: list[Array], snapshot: int = -1, tokens: Array | None = None
) -> HeadBundle:
    """One trained model as a bundle of every weight, with what its heads read, (D, n, B) by layer.

    With the tokens (symbols, n, B) of which it read that, `svtheory.checkpoints.network` runs it.
    """
    x = {name: np.asarray(a, np.float32) for name, a in models.model(member, snapshot).items()}
    named = {name: x.pop(name) for name in ("W_Q", "W_K", "b_Q", "b_K") if name in x}
    if "W_P" in x:
        x["W_pos"] = x.pop("W_P")
    if tokens is not None:
        symbols = np.moveaxis(np.asarray(tokens), (0, 1, 2), (2, 1, 0))
        x["tokens"] = symbols[..., 0] if symbols.shape[2] == 1 else symbols
    recipe = models.recipe
    metadata = {
        "source": "trained by sims, attention-only transformer",
        "task": recipe.task,
        "recipe": json.dumps(asdict(recipe)),
        "positional": "learned",
        "folded": str(recipe.normalise),
        "norm": "rms" if recipe.normalise else "none",
        "norm_epsilon": "1e-6",
        "orientation": "out, in",
    }
    if recipe.positions == "rotary":
        metadata |= {"positional": "rope", "rope_base": str(ROTARY_BASE)}
    attn_in = np.stack([np.moveaxis(np.asarray(read, np.float32), (0, 1, 2), (2, 1, 0)) for read in reads])
    return HeadBundle(**named, attn_in=attn_in, others=x, metadata=metadata)
