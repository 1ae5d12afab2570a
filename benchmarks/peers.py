"""What a user of PyTorch or of plain JAX would write instead; torch comes with the extra `bench`.

All train the same toys from the same start with AdamW, their rate falling as a cosine, on numbers of their own
generators, and return the loss of each member at the last step. `start` holds the members' parameters by name, stacked.
All run where JAX runs: on a GPU the compiled losses are replayed as CUDA graphs, which is PyTorch's best there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports]
from jax import Array

DECAY = 1e-4  # optax's default for AdamW
DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
compiled = torch.compile(mode="reduce-overhead") if DEVICE == "cuda" else torch.compile


def started(start: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """Parameters to train."""
    return [torch.tensor(start[name], device=DEVICE, requires_grad=True) for name in ("W", "b", "W_Q", "W_K")]


def drawn(*shape: int) -> torch.Tensor:
    """Uniform random numbers."""
    return torch.rand(shape, device=DEVICE)


def notebook(
    start: dict[str, np.ndarray], target: np.ndarray, p: float, n_keys: int, batch: int, rate: float, steps: int
) -> Callable[[], np.ndarray]:
    """The published notebooks' style: eager, batch first, `einsum` over an instance axis, value and mask apart."""
    T = torch.as_tensor(target, device=DEVICE)
    instances, _, N = start["W"].shape

    def run() -> np.ndarray:
        torch.manual_seed(0)
        W, b, W_Q, W_K = parameters = started(start)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            feature = drawn(batch, instances, 1 + n_keys, N)
            f = torch.where(drawn(batch, instances, 1 + n_keys, N) <= p, feature, 0.0)
            tokens = torch.einsum("bitn,idn->bitd", f, W)
            out = torch.relu(torch.einsum("bitd,idn->bitn", tokens, W) + b[:, None])
            q = torch.einsum("bid,ihd->bih", tokens[:, :, 0], W_Q)
            k = torch.einsum("bimd,ihd->bimh", tokens[:, :, 1:], W_K)
            logits = torch.einsum("bih,bimh->bim", q, k)
            asked = torch.einsum("bin,nk,bimk->bim", f[:, :, 0], T, f[:, :, 1:])
            entropy = -(asked.softmax(-1) * logits.log_softmax(-1)).sum(-1)
            loss = ((f - out) ** 2).sum(-1).mean((0, 2)) + entropy.mean(0)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            schedule.step()
        return loss.detach().cpu().numpy()

    return run


def best(
    start: dict[str, np.ndarray], target: np.ndarray, p: float, n_keys: int, batch: int, rate: float, steps: int
) -> Callable[[], np.ndarray]:
    """PyTorch at its best: instance and features first, `bmm`, one draw, fused AdamW, compiled; overlaps as ours."""
    instances, _, N = start["W"].shape
    T = torch.as_tensor(target, device=DEVICE).expand(instances, N, N)

    @compiled
    def losses(W, b, W_Q, W_K):
        u = drawn(instances, N, (1 + n_keys) * batch)
        f = torch.where(u < p, u / p, 0.0)
        out = torch.relu(torch.baddbmm(b[:, :, None], torch.bmm(W.mT, W), f))
        omega = torch.bmm(torch.bmm(W_K, W).mT, torch.bmm(W_Q, W))
        query, keys = f[:, :, :batch], f[:, :, batch:].view(instances, N, n_keys, batch)
        logits = (torch.bmm(omega, query)[:, :, None] * keys).sum(1)
        asked = (torch.bmm(T.mT, query)[:, :, None] * keys).sum(1)
        entropy = -(asked.softmax(1) * logits.log_softmax(1)).sum(1)
        return ((f - out) ** 2).sum(1).mean(1) + entropy.mean(1)

    def run() -> np.ndarray:
        torch.manual_seed(0)
        parameters = started(start)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            loss = losses(*parameters)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            schedule.step()
        return loss.detach().cpu().numpy()

    return run


def jax_loop(
    start: dict[str, np.ndarray], target: np.ndarray, p: float, n_keys: int, batch: int, rate: float, steps: int
) -> Callable[[], Array]:
    """A jitted step over all members, dispatched step by step from Python; batch first, tokens as rows."""
    T = jnp.asarray(target)
    N = target.shape[0]
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps))

    def loss(parameters: dict[str, Array], key: Array) -> Array:
        W, b, W_Q, W_K = (parameters[name] for name in ("W", "b", "W_Q", "W_K"))
        u = jax.random.uniform(key, (batch, 1 + n_keys, N))
        f = jnp.where(u < p, u / p, 0)
        tokens = f @ W.T
        out = jax.nn.relu(tokens @ W + b)
        logits = jnp.einsum("bh,bmh->bm", tokens[:, 0] @ W_Q.T, tokens[:, 1:] @ W_K.T)
        asked = jnp.einsum("bn,nk,bmk->bm", f[:, 0], T, f[:, 1:])
        entropy = -(jax.nn.softmax(asked) * jax.nn.log_softmax(logits)).sum(-1)
        return ((f - out) ** 2).sum(-1).mean() + entropy.mean()

    @jax.jit
    def step(parameters: Any, state: Any, keys: Array) -> tuple[Any, Any, Array]:
        values, gradient = jax.vmap(jax.value_and_grad(loss))(parameters, keys)
        change, state = jax.vmap(optimizer.update)(gradient, state, parameters)
        return optax.apply_updates(parameters, change), state, values

    def run() -> Array:
        parameters = jax.tree.map(jnp.asarray, start)
        state, key = jax.vmap(optimizer.init)(parameters), jax.random.key(0)
        for _ in range(steps):
            key, now = jax.random.split(key)
            parameters, state, values = step(parameters, state, jax.random.split(now, len(parameters["W"])))
        return values

    return run


def transformerlens_svd(A: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factored SVD of A B as TransformerLens computes it: of both factors, then of the small matrix between."""
    Ua, Sa, Va = torch.svd(A)
    Ub, Sb, Vb = torch.svd(B)
    U, S, V = torch.svd(Sa[..., :, None] * (Va.mT @ Ub) * Sb[..., None, :])
    found = Ua @ U, S, Vb @ V
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return found
