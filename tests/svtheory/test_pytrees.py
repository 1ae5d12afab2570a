from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory.pytrees import pytree


@pytree("name")
@dataclass(frozen=True)
class Positive:
    value: jax.Array
    name: str

    def __post_init__(self):
        if not self.value.min() > 0:
            raise ValueError("value must be positive")


def test_leaves_and_static_fields():
    leaves, structure = jax.tree.flatten(Positive(jnp.ones(2), "a"))
    assert len(leaves) == 1
    assert structure != jax.tree.structure(Positive(jnp.ones(2), "b"))
    assert structure == jax.tree.structure(Positive(jnp.zeros(3) + 1, "a"))
    assert jax.tree_util.tree_flatten_with_path(Positive(jnp.ones(2), "a"))[0][0][0] == (
        jax.tree_util.GetAttrKey("value"),
    )


def test_the_constructor_checks_and_unflattening_does_not():
    with pytest.raises(ValueError, match="value must be positive"):
        Positive(jnp.zeros(2), "a")
    assert jax.tree.map(lambda x: -x, Positive(jnp.ones(2), "a")).value.tolist() == [-1, -1]
    assert jax.tree.map(lambda _: None, Positive(jnp.ones(2), "a")).value is None


def test_under_vmap_and_jit():
    stacked = jax.vmap(lambda x: Positive(x, "a"), out_axes=0)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        stacked(jnp.ones((3, 2)))  # this constructor looks at values; svtheory's own do not while JAX traces
    doubled = jax.jit(jax.vmap(lambda p: 2 * p.value))(jax.tree.map(jnp.ones_like, Positive(jnp.ones((3, 2)), "a")))
    assert np.array_equal(doubled, 2 * np.ones((3, 2)))
