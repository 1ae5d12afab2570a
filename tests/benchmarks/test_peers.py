"""The peers train the same model: at a small size, the losses that ours has."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from benchmarks import peers, training


@pytest.mark.filterwarnings("ignore")
def test_peers_arrive_at_our_loss(monkeypatch):
    start, target = training.started(4), 10 * np.eye(training.N, k=1, dtype=np.float32)
    with jax.numpy_rank_promotion("allow"):  # as users write
        losses = [
            np.mean(build(start, target, 0.2, 4, 64, 1e-2, 60)())
            for build in (training.ours, peers.notebook, peers.jax_loop)
        ]
    assert np.allclose(losses, losses[0], rtol=0.15)


def test_the_factored_svd_is_one():
    A, B = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    U, S, V = peers.transformerlens_svd(A, B)
    assert torch.allclose(U * S[:, None] @ V.mT, A @ B)
