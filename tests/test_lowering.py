"""What is compiled here compiles for every accelerator: lowered on a CPU, without one."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from sims.engines import devices
from sims.engines.descent import _optimizer, _step
from sims.engines.ensemble import _advance, _Program
from sims.models.toy import Problem, Toy, start_and_update
from svtheory import BernoulliUniform, Scenario, matching, predict, predict_finite, sampling_error, single_pair
from tests.svtheory.test_intake import FRAME, TAKE

ACCELERATORS = ("cuda", "rocm", "tpu")
KEY = jax.random.key(0)
ON_HOST = ("best_matching",)  # SciPy's assignment


def lowered(function, *arguments):
    """The program for all accelerators."""
    return export.export(jax.jit(function), platforms=ACCELERATORS)(*arguments).mlir_module()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TAKE if name not in ON_HOST])
def test_public_functions(name):
    function, array = TAKE[name]
    assert "f64" not in lowered(function, jnp.asarray(array))


@pytest.mark.parametrize("objective", ["square", "softmax"])
def test_predictions(objective):
    law = BernoulliUniform(jnp.float32(0.2), 3)
    scenario = Scenario(FRAME, FRAME, matching(3, 3, [0, 1], [0, 1], jnp.ones(2)), law, law, objective)
    assert "f64" not in lowered(predict, scenario)
    pairs = 2 if objective == "softmax" else None
    foreseen = partial(sampling_error, samples=64, n=1000, pairs=pairs)
    assert "f64" not in lowered(foreseen, scenario, KEY)
    if pairs:
        assert "f64" not in lowered(partial(predict_finite, samples=64, pairs=pairs), scenario, KEY)


def trained(update, members, given):
    """The program that is all steps of an ensemble's training."""
    keys = jax.random.split(KEY, 2)
    with devices.using(devices.Machine(devices=1)):
        arguments = _Program(update, None, 10, 5, 10).arguments(members, keys, given)
    return export.export(_advance, platforms=ACCELERATORS)(*arguments).mlir_module()


def test_the_trainer_of_ensembles():
    start, update = start_and_update(
        lambda rngs: Toy(4, 2, 2, rngs=rngs), objective="softmax", n_keys=3, batch=8, rate=1e-2, steps=10
    )
    target = jnp.broadcast_to(single_pair(4, 4, 0, 1, 3.0), (2, 4, 4))
    problems = Problem(jax.vmap(lambda p: BernoulliUniform(p, 4))(jnp.full(2, 0.3)), target, jnp.ones(2))
    assert "f64" not in trained(update, jax.vmap(start)(jax.random.split(KEY, 2)), (problems,))


def test_descent():
    def loss(weights, target):
        return ((weights - target) ** 2).sum()

    weights = jnp.ones((2, 3))
    members = weights, jax.vmap(_optimizer().init)(weights), jnp.zeros(2)
    assert "f64" not in trained(_step(loss), members, (weights,))
