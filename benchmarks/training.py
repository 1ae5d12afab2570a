"""Training an ensemble of toys: beside PyTorch and a JAX loop, and how far from the machine's limits.

N = 20, D = H = 10, 8 keys, batch 256, p = 0.05, 16 and 64 members; the JAX loop at batch 64 and 16 members. Final
losses of all contenders must agree, as they train the same model on other random numbers.
"""

import contextlib
import io
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from benchmarks import peers
from benchmarks.timing import ceilings, interleaved, ratio
from sims.engines.ensemble import train
from sims.models.toy import Problem, Toy, activations, start_and_update
from svtheory import BernoulliUniform, single_pair

N, D, KEYS, BATCH, P, RATE, STEPS = 20, 10, 8, 256, 0.05, 3e-3, 100
STRENGTH = 10.0
LOSS_TOLERANCE = 0.05  # of the mean over members; a batch of 256 contexts leaves 1 to 2 %


def measure() -> dict[str, float]:
    """Ratios to the peers, rates, and the shares of the machine's limits."""
    figures = ceilings()
    for members in (16, 64):
        contenders = {"ours": ours, "torch_best": peers.best, "notebook": peers.notebook}
        seconds = raced(contenders, members, BATCH)
        rate = members * STEPS / statistics.median(seconds["ours"])
        figures |= {f"training_ratio_{name}_{members}": ratio(seconds[name], seconds["ours"]) for name in contenders}
        del figures[f"training_ratio_ours_{members}"]
        figures[f"training_model_steps_per_s_{members}"] = rate
        figures |= {f"training_{name}_{members}": share for name, share in shares(rate, members, figures).items()}
    seconds = raced({"ours": ours, "jax_loop": peers.jax_loop}, 16, 64)
    return figures | {"training_ratio_jax_loop_64": ratio(seconds["jax_loop"], seconds["ours"])}


def raced(contenders: dict[str, Callable], members: int, batch: int) -> dict[str, list[float]]:
    """Seconds of each contender; raises AssertionError where their final losses differ."""
    start, target = started(members, N, D), np.asarray(single_pair(N, N, 0, 1, STRENGTH), np.float32)
    runs = {name: build(start, target, P, KEYS, batch, RATE, STEPS) for name, build in contenders.items()}
    losses = {name: float(np.mean(run())) for name, run in runs.items()}
    assert max(losses.values()) < (1 + LOSS_TOLERANCE) * min(losses.values()), losses
    return interleaved(runs)


def started(members: int, N: int, D: int) -> dict[str, np.ndarray]:
    """Random parameters of heads as wide as D, one set a member."""

    def parameters(key):
        return nnx.to_pure_dict(nnx.state(Toy(N, D, D, rngs=nnx.Rngs(key))))

    return jax.tree.map(np.asarray, jax.vmap(parameters)(jax.random.split(jax.random.key(0), members)))


def ours(
    start: dict[str, np.ndarray], target: np.ndarray, p: float, n_keys: int, batch: int, rate: float, steps: int
) -> Callable[[], Array]:
    """The ensemble trainer of `sims`."""
    members, D, N = start["W"].shape
    begin, update = start_and_update(
        lambda rngs: Toy(N, D, D, rngs=rngs), objective="softmax", n_keys=n_keys, batch=batch, rate=rate, steps=steps
    )
    keys = jax.random.split(jax.random.key(1), members)
    fresh = jax.vmap(begin)(keys) | {"parameters": jax.tree.map(jnp.asarray, start)}
    laws = jax.vmap(lambda p: BernoulliUniform(p, N))(jnp.full(members, p, jnp.float32))
    problems = Problem(laws, jnp.broadcast_to(target, (members, N, N)), jnp.ones(members, jnp.float32))

    def run() -> Array:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            _, history = train(update, fresh, keys, steps, problems, every=steps, chunk=steps)
        return history["reconstruction"][-1] + history["attention"][-1]

    return run


def shares(rate: float, members: int, limits: dict[str, float]) -> dict[str, float]:
    """What part of a step its products and its traffic would take at the machine's limits, and its draws do take.

    Products are the two of N x N with all activations, forward and backward; traffic is the activations written once
    and read four times, reconstruction and slope written and read once each.
    """
    vectors = (1 + KEYS) * BATCH
    return {
        "share_of_arithmetic": rate * 4 * N**2 * vectors / limits["matmul_gflop_per_s"] / 1e9,
        "share_of_bandwidth": rate * 9 * 4 * N * vectors / limits["copy_gb_per_s"] / 1e9,
        "share_of_draws": rate / draws_per_s(members),
    }


def draws_per_s(members: int) -> float:
    """Batches of activations a second, drawn and summed in the same kind of loop."""
    keys = jax.random.split(jax.random.key(0), members)
    law = BernoulliUniform(jnp.float32(P), N)

    @jax.jit
    def run(keys):
        def step(total, n):
            drawn = jax.vmap(lambda key: activations(law, jax.random.fold_in(key, n), KEYS, BATCH))(keys)
            return total + drawn[:, 0, 0, 0] + drawn.max(), None

        return jax.lax.scan(step, jnp.zeros(members), jnp.arange(STEPS))[0]

    return members * STEPS / statistics.median(interleaved({"draws": lambda: run(keys)})["draws"])
