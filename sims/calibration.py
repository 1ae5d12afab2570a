"""Calibration: how often does each p-value of this package reject heads that match nothing?

Heads are drawn that have no relation to what they read: Gaussian weights, Haar singular vectors of given singular
values ("raw"), and Haar modes of given values as the tokens see them ("balanced"). Tokens are isotropic, of condition
number 1e4 with a mean, or one feature at a time, equally often or as 1/rank; templates match 8, 20 or 3 features, one
pair in 8, or two blocks of 4, or are a family of orders, of which each head takes the best. On each the p-values that
verdicts rest on may not fall below 0.05 and 0.01 more often than that. The other p-values say less, and are held to
that under the null that their docstring names. Power: how often heads are found that were planted to match, part of
each factor's square being noise.

Rules, set before the run: the rate at 0.05 and at 0.01 is not above it, judged by the lower Clopper-Pearson bound,
family-wise 99 % over the whole table; heads planted with half of it noise are found at 0.05 by at least 0.8. For
sparseness that was asked too much: a first run found no such heads, since noise fills terms that should be 0, so that
there the rule is about heads without noise, of equal strengths on one-hot tokens; what noise leaves of it is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from rich.progress import track
from scipy.stats import beta

from sims.lab.command import command
from sims.lab.null_heads import CHOICES, PLANTED, Case, D, H, Size, aligned, cosine, explained, family, rotated, sparse
from sims.lab.worlds import HEADS, TOKENS, world
from svtheory import single_pair
from svtheory.checks import InputError
from svtheory.heads.hypotheses import decaying_orders
from svtheory.instruments.survey import places
from svtheory.reports.options import Options, at_least
from svtheory.reports.plotting import COLOURS, panels
from svtheory.reports.runs import REMEDY, Exhibit, Outcome, atomic, checkpoints
from svtheory.reports.tables import shown

THEOREMS = ("T11", "T12", "T16", "T22")
LEVELS = (0.05, 0.01)
FAMILY_WISE, POWER = 0.99, 0.8
FOUND = {("explain", "planted, 50 % noise"), ("sparseness_test, head", "planted")}  # by POWER
LABELS = ("p-value", "asked", "tokens", "heads")
STATISTICS = ("rate", "low", "high")
BLOCKS = np.kron(np.eye(2), np.ones((4, 4)))
ORDERS = decaying_orders(np.arange(8)[None, :] - np.arange(8)[:, None], np.geomspace(0.5, 20, 12))
ROUND = 25  # repetitions between two looks at the progress bar


@dataclass(frozen=True)
class Config(Options):
    """Size of the table."""

    ARRAYS = ("contexts 12 12", "repetitions 100")

    repetitions: Annotated[int, at_least(20)] = 40
    """Heads of each kind."""
    draws: Annotated[int, at_least(99)] = 99
    """Random members behind a p-value."""
    contexts: Annotated[int, at_least(4)] = 8
    """Contexts of 12 tokens that queries and keys are read from."""
    table: str = ""
    """Markdown file to write the table to; none by default."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self):
        super().__post_init__()
        if not Path(self.table).parent.is_dir():
            raise InputError(f"--table must be a file in a folder that exists, got {self.table!r}")


SCALES = {"quick": Config(), "paper": Config(repetitions=500), "full": Config(repetitions=5000, draws=999)}


class Group(NamedTuple):
    """Every head on every kind of token, asked for every template: cases of one shape, drawn by one program.

    `draw(case, key)` gives p-values by name.
    """

    draw: Callable[[Case, Array], dict[str, Array]]
    n_features: int
    asked: Mapping[str, Array]
    kinds: Sequence[str] = TOKENS
    heads: Sequence[str] = HEADS

    def labels(self) -> list[dict[str, str]]:
        """A label for each case."""
        return [dict(zip(LABELS[1:], cell, strict=True)) for cell in product(self.asked, self.kinds, self.heads)]

    def cases(self) -> Case:
        """The cases, stacked."""
        worlds = {kind: world(kind, D, self.n_features, jax.random.key(self.n_features)) for kind in self.kinds}
        made = [
            Case(
                worlds[label["tokens"]],
                jnp.asarray((*HEADS, *PLANTED).index(label["heads"])),
                self.asked[label["asked"]],
            )
            for label in self.labels()
        ]
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *made)


def run(config: Config, folder: Path) -> Outcome:
    """Draw every kind of head on every kind of token, and count how often each p-value is small."""
    labels, columns = [], []
    for number, (name, group) in enumerate(groups(config).items()):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        found = repeated(group, key, config.repetitions, checkpoints(folder) / f"{name}.npz", name)
        labels += [{"p-value": p_value, **label} for p_value in found for label in group.labels()]
        columns += [column for p in found.values() for column in p.T]
    results = labelled(labels, np.stack(columns))
    rows = [row(case) for case in places(results, "case")]
    if config.table:
        with atomic(Path(config.table)) as path:
            path.write_text(page(config, rows))
    return Outcome(summary(results), results, {"calibration": exhibit(results)}, rows)


def groups(config: Config) -> dict[str, Group]:
    """All cases, those of one program together."""
    size = Size(config.contexts, config.draws)
    matches = {
        3: {"3 matched": jnp.eye(3)},
        8: {"8 matched": jnp.eye(8), "a pair of 8": single_pair(8, 8, 0, 1), "2 blocks of 4": BLOCKS},
        20: {"20 matched": jnp.eye(20)},
    }
    found = {f"explain-{N}": Group(partial(explained, size), N, asked) for N, asked in matches.items()}
    found["explain-family"] = Group(partial(explained, size), 8, {"a family of 12 orders": jnp.asarray(ORDERS, float)})
    found["explain-planted"] = Group(partial(explained, size, planted=True), 8, matches[8], heads=list(PLANTED)[-1:])
    for choice in CHOICES:
        found[f"sparse-{choice}"] = Group(partial(sparse, size, choice), 8, {choice: jnp.eye(8)})
    test = partial(sparse, size, CHOICES[0], planted=True)
    found["sparse-planted"] = Group(test, 8, {CHOICES[0]: jnp.eye(8)}, ("one-hot",), list(PLANTED))
    found["sparse-family"] = Group(partial(family, size), 8, {CHOICES[0]: jnp.eye(8)}, TOKENS[:2], HEADS[1:])
    found["align"] = Group(partial(aligned, size), 8, {"8 features": jnp.eye(8)})
    nulls = dict.fromkeys(["under its own null"], jnp.eye(8))
    found["rotations"] = Group(partial(rotated, size), 8, nulls, ("isotropic", "zipf"), ("raw",))
    found["cosines"] = Group(partial(cosine, size), 8, nulls, ("isotropic",), ("raw",))
    return found


def repeated(group: Group, key: Array, repetitions: int, file: Path, label: str) -> dict[str, np.ndarray]:
    """p-values of all cases by name, each (repetitions, cases); read from `file` where they have been drawn before."""
    if file.exists():
        try:
            with np.load(file) as kept:
                return dict(kept)
        except Exception as error:  # whatever zipfile and numpy throw on a file; each array has its checksum
            raise InputError(f"{file} cannot be read ({type(error).__name__}); {REMEDY}") from error

    cases, number = group.cases(), len(group.labels())

    @jax.jit
    def some(keys):
        def once(key):
            return jax.lax.map(lambda given: group.draw(*given), (cases, jax.random.split(key, number)))

        return jax.lax.map(once, keys)

    keys = jax.random.split(key, repetitions)
    size = -(-repetitions // -(-repetitions // ROUND))  # rounds of about one size, which are one program
    rounds = [keys[first : first + size] for first in range(0, repetitions, size)]
    parts = [jax.tree.map(np.asarray, some(keys)) for keys in track(rounds, label)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    file.parent.mkdir(exist_ok=True)
    with atomic(file) as path, path.open("wb") as stream:
        np.savez(stream, **found)  # pyright: ignore
    return found


def labelled(labels: list[dict[str, str]], p: np.ndarray) -> xr.Dataset:
    """p-values (cases, repetitions), their rates, and intervals that all hold at once with 99 %."""
    repetitions = p.shape[1]
    small = np.stack([(p <= level).sum(axis=1) for level in LEVELS], axis=1)
    tail = (1 - FAMILY_WISE) / (2 * small.size)
    low = np.where(small > 0, beta.ppf(tail, small, repetitions - small + 1), 0)
    high = np.where(small < repetitions, beta.isf(tail, small + 1, repetitions - small), 1)
    data = {"p": (("case", "repetition"), p)}
    data |= {name: (("case", "level"), x) for name, x in (("rate", small / repetitions), ("low", low), ("high", high))}
    coordinates = {name: ("case", [label.get(name, "") for label in labels]) for name in labels[0]}
    return xr.Dataset(data, {**coordinates, "level": list(LEVELS)})


def row(here: xr.Dataset) -> dict[str, Any]:
    """One case: how often its p-value is small, with the interval of the whole table, and whether that is allowed."""
    rates = {
        f"P(p <= {level:g})": "{:.3f} ({:.3f} to {:.3f})".format(*(float(here[x].sel(level=level)) for x in STATISTICS))
        for level in LEVELS
    }
    return {**{name: here[name].item() for name in LABELS}, **rates, "rule": rule(here), "holds": holds(here)}


def rule(here: xr.Dataset) -> str:
    """What is asked of a case; nothing of planted heads that are shown only."""
    if here.heads.item() not in PLANTED:
        return "not above its level"
    return f"at least {POWER:g} at {LEVELS[0]:g}" if (here["p-value"].item(), here.heads.item()) in FOUND else ""


def holds(here: xr.Dataset) -> bool | None:
    """Whether a planted head is found often enough, or any other head no more often than the level."""
    if here.heads.item() in PLANTED:
        return float(here.rate[0]) >= POWER if rule(here) else None
    return bool((here.low <= here.level).all())


def summary(results: xr.Dataset) -> dict[str, Any]:
    """Headline figures."""
    null = ~results.heads.isin(list(PLANTED))
    found = {"repetitions": results.sizes["repetition"], "p_values_undefined": int(results.p.isnull().sum())}
    highest = {f"highest_rate_at_{x:g}": float(results.rate.sel(level=x).where(null).max()) for x in LEVELS}
    return found | highest


def page(config: Config, rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, with what it shows and how it was made."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([shown(row[name]) for name in names] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made = f"`python -m sims calibration --scale paper --table {config.table}`"
    facts = (
        f"{config.repetitions} heads a row, {config.draws} random members behind a p-value, {D} dimensions, {H} modes"
    )
    title, _, about = str(__doc__).partition("\n")
    return f"# {title}\n{about}\nMade by {made}: {facts}, seed {config.seed}. In brackets the interval.\n\n{table}\n"


def exhibit(results: xr.Dataset) -> Exhibit:
    """Rates over their levels, by p-value."""
    names = list(dict.fromkeys(results["p-value"].values))
    figure, axes = panels(len(LEVELS), width=6.0, height=1.2 + 0.3 * len(names))
    null = results.where(~results.heads.isin(list(PLANTED)), drop=True)
    for ax, level in zip(axes[0], LEVELS, strict=True):
        for i, name in enumerate(names):
            here = null.where(null["p-value"] == name, drop=True).sel(level=level)
            y = i + np.linspace(-0.3, 0.3, here.sizes["case"])
            error = np.abs(np.stack([here.low, here.high]) - here.rate.values[None, :])
            ax.errorbar(here.rate, y, xerr=error, fmt="o", color=COLOURS[0], markersize=3, alpha=0.6, elinewidth=0.6)
        ax.axvline(level, color=COLOURS[1], label=f"level {level:g}")
        ax.set(xlabel=f"rate of p <= {level:g}", xlim=(0, None), ylim=(len(names) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names if ax is axes[0, 0] else [""] * len(names))
        ax.legend(loc="lower right")
    caption = (
        "How often heads that match nothing fall below a level (points, a kind of head on a kind of token each, with "
        "the interval that holds for the whole table), and the level (line)."
    )
    return Exhibit(figure, caption)


main = command(run, SCALES)

if __name__ == "__main__":
    main()
