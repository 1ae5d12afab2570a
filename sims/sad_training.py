"""Does sparsity emerge in training? S of every head of a transformer trained here, against random heads (Fig 7b).

A two-layer attention-only transformer is trained on the task of induction, and read at snapshots, at all its queries,
though answers need few of them. What is read is the instrument emergence's, which reads checkpoints of other models:
`svtheory emergence MODELS`.

A decision is a query's attention to the key it attends most; S is the Treves-Rolls sparseness of the terms of its
relative attention, 1 for equal magnitudes and 1/K for a single term, and the mean over decisions is a head's. A head is
called sparser than chance when it is sparser than random heads on the same tokens, which keep its singular values and
choose their key anew (T22), p-values adjusted for the number of heads (Benjamini and Hochberg). Beside it stand the
diagnostics of T11, rotations that keep every score or forget the choice of the key.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from jax import Array

from sims.lab.command import command
from sims.models.trained import Recipe, bundle, trained
from sims.models.trained_heads import run_on
from svtheory import HeadBundle
from svtheory.instruments import emergence
from svtheory.reports.options import Options, at_least
from svtheory.reports.runs import Exhibit, Outcome

THEOREMS = ("T11", "T22")
HEADS = 4  # of each layer


@dataclass(frozen=True)
class Config(Options):
    """Options of the experiment."""

    ARRAYS = ("sequences 64 8",)

    sequences: Annotated[int, at_least(2)] = 24
    """Sequences read."""
    draws: Annotated[int, at_least(19)] = 999
    """Random heads behind a p-value, at most."""
    steps: int = 500
    """Steps of training, a multiple of 100."""
    snapshots: Annotated[int, at_least(1)] = 8
    """Snapshots, at most, at growing distances."""
    seed: int = 0
    """Seed of training and random heads."""

    def __post_init__(self):
        super().__post_init__()
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """What is trained."""
        return Recipe("induction", members=1, steps=self.steps, batch=64, seed=self.seed, heads=HEADS)


SCALES = {
    "quick": Config(),
    "paper": Config(steps=4000, snapshots=16, draws=2999, sequences=64),
    "full": Config(steps=20_000, snapshots=40, draws=9999, sequences=256),
}


def run(config: Config, folder: Path) -> Outcome:
    """Train; decompose every head of every snapshot, and compare with random heads."""
    first, _ = jax.random.split(jax.random.key(config.seed))
    settings = emergence.Settings(draws=config.draws, seed=config.seed)
    results = emergence.survey(_series(config, first, folder), settings)
    exhibit = Exhibit(emergence.figure(results), emergence.caption(results))
    return Outcome(emergence.summary(results), results, {"sad_training": exhibit}, emergence.rows(results))


def _series(config: Config, key: Array, folder: Path) -> Iterator[tuple[str, HeadBundle]]:
    """Steps and heads of each snapshot, one after the other."""
    models = trained(config.recipe, folder.parent)
    sampled = config.recipe.given.sample(key, config.sequences)
    for snapshot in np.unique(np.linspace(0, len(models.steps) - 1, config.snapshots + 1).round().astype(int)):
        seen = run_on(models, 0, sampled, snapshot)
        heads = bundle(models, 0, seen.reads, snapshot)
        yield str(models.steps[snapshot]), replace(heads, metadata={**heads.metadata, "loss": f"{seen.loss:.4g}"})


main = command(run, SCALES)

if __name__ == "__main__":
    main()
