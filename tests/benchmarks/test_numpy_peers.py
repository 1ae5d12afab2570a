"""NumPy's peers compute what the library does, which each benchmark asserts before it takes the time."""

import jax
import numpy as np
import pytest

from benchmarks import reading


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced", "explain", "sparseness", "read"])
def test_peers_agree(monkeypatch, tmp_path, name):
    monkeypatch.setattr(reading, "DRAWS", 99)
    ours, peer, agree, *definition = getattr(reading, f"_{name}")(tmp_path)
    found = peer()
    agree(jax.tree.map(np.asarray, ours()), found)
    for by_definition in definition:
        np.testing.assert_allclose(by_definition(3)[0], found[0], atol=1e-4)
