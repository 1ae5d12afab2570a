import jax
import jax.numpy as jnp
import numpy as np

from sims.lab.sweep import Batch, labelled, sweep


def test_heads_of_one_shape_are_trained_together_and_keep_their_order(tmp_path):
    first, second, third = jax.random.split(jax.random.key(0), 3)
    batches = [
        Batch(jnp.full((2, 3), 1.0), first, {"name": "a", "value": [0.1, 0.2]}),
        Batch(jnp.full((1, 4), 2.0), second, {"name": "b", "value": [0.3]}),
        Batch(jnp.full((1, 3), 3.0), third, {"name": "c", "value": [0.4]}),
    ]
    calls = []

    def train(given, keys, checkpoint, label):
        calls.append((given.shape, checkpoint.name, label))
        return jax.random.key_data(keys)

    def read(given, trained):
        return {"sum": given.sum(), "key": trained}

    results = sweep(batches, train, read, tmp_path, ("word",))
    assert calls == [((3, 3), "0", "3 heads"), ((1, 4), "1", "1 heads")]
    assert results.name.values.tolist() == ["a", "a", "b", "c"]
    assert results.value.values.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert results["sum"].values.tolist() == [3, 3, 8, 9]
    assert results.key.dims == ("head", "word")
    split = jax.random.key_data(jax.random.split(first, 3))
    np.testing.assert_array_equal(results.key.values[[0, 1, 3]], split)


def test_a_head_may_have_a_key_of_its_own(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    batches = [Batch(jnp.zeros(2), keys[:2], {"name": "a"}), Batch(jnp.zeros(1), keys[2:], {"name": "b"})]

    def train(given, keys, checkpoint, label):
        return jax.random.key_data(keys)

    results = sweep(batches, train, lambda given, trained: {"key": trained}, tmp_path, ("word",), head="member")
    assert results.key.dims == ("member", "word")
    np.testing.assert_array_equal(results.key.values, jax.random.key_data(keys))


def test_what_is_found_has_as_many_of_the_axes_as_it_needs():
    results = labelled({"size": jnp.zeros((2, 3)), "loss": jnp.ones(2)}, {"seed": range(2)}, "head", "step", "feature")
    assert (results["size"].dims, results.loss.dims, results.seed.dims) == (("head", "step"), ("head",), ("head",))
