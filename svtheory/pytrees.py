"""Frozen dataclasses as JAX pytrees whose unflattening bypasses the constructor."""

import dataclasses
from collections.abc import Callable

import jax


def pytree(*static: str) -> Callable[[type], type]:
    """Register a dataclass as a pytree; the fields named in `static` are metadata, all others are leaves.

    The constructor validates what users give. Unflattening must not: under `vmap`, `jit` or a bare `tree.map` the
    leaves are tracers, stacked arrays or placeholders, for which the checks have no meaning.
    """

    def register(cls: type) -> type:
        names = [field.name for field in dataclasses.fields(cls)]
        leaves = tuple(name for name in names if name not in static)

        def flatten_with_keys(self):
            children = tuple((jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaves)
            return children, tuple(getattr(self, name) for name in static)

        def flatten(self):
            return tuple(getattr(self, name) for name in leaves), tuple(getattr(self, name) for name in static)

        def unflatten(metadata, children):
            self = object.__new__(cls)
            for name, value in (*zip(leaves, children, strict=True), *zip(static, metadata, strict=True)):
                object.__setattr__(self, name, value)
            return self

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return register
