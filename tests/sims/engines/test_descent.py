"""Descents that arrive stay where they arrived; what leads astray is not followed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sims.engines import descent
from sims.engines.descent import descend
from sims.rotary import ROWS, rotary_loss


def product_loss(weights, target):
    """Half the squared distance of `W_Q^T W_K` from a target that no head of one row reaches, `diag(2, 1)`."""
    return ((jnp.outer(weights["W_Q"], weights["W_K"]) - target) ** 2).sum() / 2


@partial(jax.jit, static_argnums=1)
def two_by_two(start, dtype):
    """Of one size and number, with as many steps asked for, so that one program of each precision serves all."""
    members = 8
    keys = jax.random.split(jax.random.key(0), members)
    W = jax.vmap(lambda key: start * jax.random.normal(key, (2, 2), dtype))(keys)
    targets = jnp.tile(jnp.diag(jnp.array([2.0, 1.0], dtype))[None], (members, 1, 1))
    return {"W_Q": W[:, 0], "W_K": W[:, 1]}, keys, targets


def test_heads_stay_at_the_minimum_that_they_have_reached():
    """The cell of `rotary --scale paper` from which L-BFGS ran away once at the minimum, from |W| = 0.97 to 18,300.

    H/2 = 2 equal pairs, one frequency, theta d_max = 20: T13 gives the loss `(2 - kept)/2`, kept from the projection of
    a constant on `cos theta d` and `sin theta d`, here by least squares in numpy.
    """
    members, offsets = 16, np.arange(32.0)
    theta = 20 / 31
    waves = np.stack([np.cos(theta * offsets), np.sin(theta * offsets)], axis=1)
    held = waves @ np.linalg.lstsq(waves, np.ones(32), rcond=None)[0]
    least = (2 - 2 * (held**2).mean()) / 2
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 1), 800)[384:400]
    with jax.enable_x64(True):
        draw = jax.jit(jax.vmap(lambda key: 0.3 / ROWS**0.5 * jax.random.normal(key, (2, ROWS, ROWS))))(keys)
        target = np.diag([1.0, 1.0, 0.0, 0.0])
        given = [np.eye(ROWS), np.eye(ROWS), np.tile(target, (32, 1, 1)), offsets, np.full(2, theta)]
        X, Y, asked, d, frequencies = (jnp.asarray(np.tile(x[None], (members, *[1] * x.ndim))) for x in given)
        weights = {"W_Q": draw[:, 0], "W_K": draw[:, 1]}
        weights, history = descend(rotary_loss, weights, keys, 1500, (X, Y, asked), d, frequencies)
    assert np.allclose(history["loss"][-1], least, rtol=1e-9)
    assert (np.diff(history["loss"], axis=0) <= 1e-6 * history["loss"][:-1]).all()
    size = np.sqrt(sum((np.asarray(W) ** 2).sum(axis=(1, 2)) for W in weights.values()))
    assert size.max() < 1


@pytest.mark.parametrize(("precision", "start"), [(32, 0.3), (32, 3e-4), (64, 1e-3), (64, 1e-8)])
def test_a_small_start_is_no_minimum(precision, start):
    """The saddle at W = 0 has as small a gradient; the best head of one row keeps the larger value (Eckart, Young)."""
    with jax.enable_x64(precision == 64):
        weights, keys, targets = two_by_two(start, jnp.dtype(f"float{precision}"))
        _, history = descend(product_loss, weights, keys, 300, targets)
    last = history["loss"][-1]
    assert (last < 1).all()  # L-BFGS is slow where the factors differ much in size, in one member of some eight
    assert np.median(last) == pytest.approx(0.5, rel=100 * float(np.finfo(last.dtype).eps))


def test_a_start_at_the_minimum_stays():
    with jax.enable_x64(True):
        weights, keys, targets = two_by_two(1.0, float)
        best = jax.tree.map(lambda W: jnp.asarray(np.tile([[2**0.5, 0.0]], (len(W), 1))), weights)
        weights, history = descend(product_loss, best, keys, 300, targets)
    assert np.abs(np.asarray(weights["W_Q"]) - np.asarray(best["W_Q"])).max() < 1e-6
    assert np.allclose(history["loss"], 0.5, rtol=1e-9)


def test_a_memory_of_rounding_noise_is_not_followed():
    """What pairs of noise propose takes optax itself to a loss of 7e19: the weights stay, the memory begins anew."""
    with jax.enable_x64(True):
        weights, target = {"W_Q": np.array([1.4, 0.01]), "W_K": np.array([1.4, 0.02])}, np.diag([2.0, 1])
        loss, gradient = jax.jit(jax.value_and_grad(product_loss))(weights, target)
        state = jax.jit(descent._optimizer().init)(weights)
        memory = state[0]._replace(
            count=jnp.asarray(21, jnp.int32),
            params=weights,
            updates=gradient,
            diff_params_memory=jax.tree.map(lambda W: np.full((20, *W.shape), 1e-17), weights),
            diff_updates_memory=jax.tree.map(lambda W: np.full((20, *W.shape), 1e-30), weights),
            weights_memory=np.full(20, 1e47 / 4),
        )
        state = (memory, *state[1:])
        propose = jax.jit(partial(descent._optimizer().update, value_fn=lambda W: product_loss(W, target)))
        change, _ = propose(gradient, state, weights, value=loss, grad=gradient)
        assert jax.jit(product_loss)(jax.tree.map(np.add, weights, change), target) > 1e10
        member = weights, state, jnp.asarray(3.0)
        (kept, (after, *_), _), _ = jax.jit(descent._step(product_loss))(member, jax.random.key(0), target)
        assert jax.tree.all(jax.tree.map(np.array_equal, kept, weights))
        assert after.count == 0


def test_a_loss_that_is_not_finite_at_the_start_stops_the_run():
    weights, keys, targets = two_by_two(1e30, jnp.dtype("float32"))
    with pytest.raises(FloatingPointError, match="is not finite at step 1 of member 0"):
        descend(product_loss, weights, keys, 300, targets)


def test_members_that_end_above_their_least_loss_are_reported():
    losses = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.1, 1.0 + 1e-7]])
    with pytest.warns(
        UserWarning, match=r"^heads: the last loss of 1 of 3 members is above .* member 1 \(1.1, after 1"
    ):
        descent._report_risen(losses, "heads")
