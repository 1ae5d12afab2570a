"""Recording: what the attention modules of a PyTorch model are given when it runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from svtheory.heads.bundles import host_array

READ = ("hidden_states", "query_input")  # what an attention module may call it


class Given(NamedTuple):
    """One call of an attention module on one sequence, in the order of calls.

    module   the module itself
    read     what its projections multiply, (n, d_model)
    others   all else that it was given by name
    """

    module: Any
    read: np.ndarray
    others: Mapping[str, Any]


@contextmanager
def recording(modules: Sequence[Any]) -> Iterator[list[Given]]:
    """A list that each call of one of these modules is added to, until the block ends."""
    calls: list[Given] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = [kwargs[name] for name in READ if name in kwargs]
        calls.append(Given(module, array("hidden states", (named or args)[0][0]), kwargs))

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def array(name: str, tensor: Any) -> np.ndarray:
    """A tensor in this machine's memory, its own from now on."""
    return np.array(host_array(name, tensor))
