"""Five toys, an odd number, trained on a machine that may die: what `test_devices` runs in processes of its own."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sims.engines import ensemble
from sims.engines.devices import Machine, leads, using
from sims.models.toy import Problem, Toy, start_and_update
from svtheory import BernoulliUniform, single_pair

M, N = 5, 4


def trained(dtype, folder=None):
    """Parameters and history of the toys, kept in `folder`."""
    with jax.enable_x64(dtype == "float64"):
        start, update = start_and_update(
            lambda rngs: Toy(N, 2, 2, rngs=rngs), objective="softmax", n_keys=3, batch=32, rate=1e-2, steps=100
        )
        keys = jax.random.split(jax.random.key(0), M)
        laws = jax.vmap(lambda p: BernoulliUniform(p, N))(np.full(M, 0.3))
        problems = Problem(laws, np.broadcast_to(single_pair(N, N, 0, 1, 3.0), (M, N, N)), np.ones(M))
        problems = jax.tree.map(lambda x: jnp.asarray(x, dtype), problems)
        place = {"every": 10, "chunk": 50, "checkpoint": folder and Path(folder)}
        members, history = ensemble.train(update, jax.vmap(start)(keys), keys, 100, problems, **place)
    return jax.tree.map(np.asarray, {**members["parameters"], **history})


def dying_after(chunks, advance=ensemble._advance):
    """The trainer's step of a chunk, which ends the process in place of one more."""
    left = iter(range(chunks))

    def advance_or_die(*arguments):
        return advance(*arguments) if next(left, None) is not None else sys.exit(7)

    return advance_or_die


def main(out, jobs, machine):
    """Jobs are a dtype, a folder and after how many chunks to die each; what the first process finds goes to `out`."""
    with using(Machine(**machine)):
        for dtype, folder, chunks in jobs:
            ensemble._advance = dying_after(chunks)
            found = trained(dtype, folder)
            if leads():
                np.savez(out.replace("DTYPE", dtype), **found, devices=jax.device_count())


if __name__ == "__main__":
    main(sys.argv[1], *map(json.loads, sys.argv[2:]))
