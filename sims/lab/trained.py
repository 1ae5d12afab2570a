"""Transformers trained once and shared: experiments with the same `--out` and recipe read the same models."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from safetensors import safe_open
from safetensors.numpy import save_file

from sims.lab.ensemble import train
from sims.lab.runs import atomic
from sims.lab.tasks import Task, task
from sims.lab.transformer import ROTARY_BASE, Architecture, Transformer, training
from svtheory import HeadBundle
from svtheory.checks import InputError, whole


@dataclass(frozen=True)
class Recipe:
    """What transformers are trained on, and how.

    heads None is as many as the task has matches; rate is AdamW's peak rate and decay its decoupled weight decay;
    snapshots at equal distances, besides the start.
    """

    task: str
    members: int = 8
    steps: int = 2000
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.6
    snapshots: int = 20
    seed: int = 0
    heads: int | None = None
    positions: str = "learned"
    normalise: bool = False
    biases: bool = False

    def __post_init__(self):
        for name in ("members", "steps", "batch", "snapshots"):
            whole(f"--{name}", getattr(self, name), 1)
        if self.steps % self.snapshots:
            raise InputError(f"--steps must be a multiple of {self.snapshots}, the snapshots, got {self.steps}")
        if not 0 < self.rate < np.inf:
            raise InputError(f"--rate must be a finite number above 0, got {self.rate}")
        if not 0 <= self.decay < np.inf:
            raise InputError(f"--decay must be a finite number of at least 0, got {self.decay}")

    @property
    def given(self) -> Task:
        """The task."""
        return task(self.task)

    @property
    def architecture(self) -> Architecture:
        """As many layers as the task needs."""
        heads = self.given.heads if self.heads is None else self.heads
        return Architecture(
            self.given.layers, heads, positions=self.positions, normalise=self.normalise, biases=self.biases
        )


class Trained(NamedTuple):
    """Models of one recipe: parameters by name, (snapshots + 1, members, ...), the first before training.

    steps (snapshots + 1,); accuracy of every training batch, (steps, members); seconds of wall and processor time.
    """

    recipe: Recipe
    parameters: dict[str, np.ndarray]
    steps: np.ndarray
    accuracy: np.ndarray
    seconds: float
    processor_seconds: float

    def model(self, member: int, snapshot: int = -1) -> dict[str, Array]:
        """The parameters of one model, by default fully trained."""
        return {name: jnp.asarray(x[snapshot, member]) for name, x in self.parameters.items()}


def trained(recipe: Recipe, out: Path) -> Trained:
    """The models of this recipe: read from the folder `out/transformers`, or trained now and kept there."""
    text = json.dumps([asdict(recipe), asdict(recipe.architecture)], sort_keys=True)
    path = out / "transformers" / f"{recipe.task}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep(path, _train(recipe))
    with safe_open(path, framework="np") as file:
        seconds = json.loads(file.metadata()["seconds"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    steps, accuracy = arrays.pop("steps"), arrays.pop("accuracy")
    return Trained(recipe, arrays, steps, accuracy, *seconds)


def _keep(path: Path, models: Trained) -> None:
    metadata = {
        "recipe": json.dumps(asdict(models.recipe)),
        "seconds": json.dumps([models.seconds, models.processor_seconds]),
    }
    arrays = models.parameters | {"steps": models.steps, "accuracy": models.accuracy}
    with atomic(path) as temporary:
        save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, temporary, metadata)


def _train(recipe: Recipe) -> Trained:
    """Equal stretches of one course of training, a snapshot after each."""
    began = time.perf_counter(), time.process_time()
    start, update = training(recipe.given, recipe.architecture, batch=recipe.batch, steps=recipe.steps)
    first, second = jax.random.split(jax.random.key(recipe.seed))
    keys = jax.random.split(first, recipe.members)
    members = jax.jit(jax.vmap(partial(start, rate=jnp.array(recipe.rate), decay=jnp.array(recipe.decay))))(keys)
    stretch = recipe.steps // recipe.snapshots
    snapshots, accuracy = [_on_host(members["parameters"])], []
    for number in range(recipe.snapshots):
        of_stretch = jax.random.split(jax.random.fold_in(second, number), recipe.members)
        label = f"{recipe.task} {number + 1}/{recipe.snapshots}"
        members, history = train(update, members, of_stretch, stretch, chunk=stretch, label=label)
        snapshots.append(_on_host(members["parameters"]))
        accuracy.append(history["accuracy"])
    return Trained(
        recipe,
        jax.tree.map(lambda *x: np.stack(x), *snapshots),
        stretch * np.arange(recipe.snapshots + 1),
        np.concatenate(accuracy),
        time.perf_counter() - began[0],
        time.process_time() - began[1],
    )


def _on_host(parameters: dict[str, Array]) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, parameters)


def transformer(recipe: Recipe, parameters: dict[str, Array]) -> Transformer:
    """The module of a recipe with these parameters."""
    build = partial(Transformer, recipe.given, recipe.architecture)
    return nnx.merge(nnx.graphdef(jax.eval_shape(lambda: build(rngs=nnx.Rngs(0)))), parameters)


def bundle(models: Trained, member: int, reads: list[Array], snapshot: int = -1) -> HeadBundle:
    """One trained model as a bundle, with what its heads read, (D, n, B) by layer."""
    x = {name: np.asarray(a, np.float32) for name, a in models.model(member, snapshot).items()}
    named = {name: x.pop(name) for name in ("W_Q", "W_K", "b_Q", "b_K") if name in x}
    recipe = models.recipe
    metadata = {
        "source": "trained by sims, attention-only transformer",
        "task": recipe.task,
        "recipe": json.dumps(asdict(recipe)),
        "positional": "rope" if recipe.positions == "rotary" else "learned",
        "rope_base": str(ROTARY_BASE),
        "folded": str(recipe.normalise),
    }
    attn_in = np.stack([np.moveaxis(np.asarray(read, np.float32), (0, 1, 2), (2, 1, 0)) for read in reads])
    return HeadBundle(**named, attn_in=attn_in, others=x, metadata=metadata)
