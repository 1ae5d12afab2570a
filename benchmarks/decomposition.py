"""Spectra of 144 heads of GPT-2's shape, beside the full SVD of D x D products and TransformerLens's factored one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.peers import DEVICE, transformerlens_svd
from benchmarks.timing import interleaved, ratio
from svtheory import spectrum

HEADS, H, D = 144, 64, 768
TOLERANCE = 1e-4  # of sigma_1, of contenders among each other: TF32 leaves 1e-3, SVDs of a GPU 1e-5


def heads() -> np.ndarray:
    """Factors (2, HEADS, H, D) whose singular values spread as exp(normal), in a random basis of the H dimensions."""
    rng = np.random.default_rng(0)
    scales = np.exp(-rng.normal(size=(2, HEADS, H, 1)))
    basis = np.linalg.qr(rng.normal(size=(2, HEADS, H, H)))[0]
    return (basis @ (rng.normal(size=(2, HEADS, H, D)) * scales) / D**0.5).astype(np.float32)


def product_svd(W_Q: Array, W_K: Array) -> Any:
    """The full SVD of the D x D product."""
    return jnp.linalg.svd(jnp.matmul(W_Q.T, W_K, precision="highest"), full_matrices=False)


def on_every_device(of_head: Callable[..., Any], *stacked: Array) -> Callable[[], Any]:
    """`of_head` of stacked arguments (HEADS, ...), one by one on each device, a CPU's cores, as `sims` does."""
    number = next(n for n in range(jax.device_count(), 0, -1) if HEADS % n == 0)
    devices, split = Mesh(np.array(jax.devices()[:number]), ("heads",)), PartitionSpec("heads")
    of_device = partial(jax.lax.map, lambda given: of_head(*given))
    run = jax.shard_map(of_device, mesh=devices, in_specs=split, out_specs=split, check_vma=False)
    return partial(jax.jit(run), jax.device_put(stacked, NamedSharding(devices, split)))


def measure() -> dict[str, float]:
    """Ratios to both, seconds of ours and of the ceiling, the SVDs of H x H alone; of both on one device and on all."""
    factors = heads()
    W_Q, W_K = jnp.asarray(factors)
    A, B = torch.as_tensor(factors[0], device=DEVICE).mT, torch.as_tensor(factors[1], device=DEVICE)
    small = jnp.matmul(W_Q, W_K.mT, precision="highest")
    ours = jax.jit(lambda Q, K: jax.lax.map(lambda w: spectrum(*w), (Q, K)))
    full = jax.jit(lambda Q, K: jax.lax.map(lambda w: product_svd(*w), (Q, K)))
    ceiling = jax.jit(lambda small: jax.lax.map(jnp.linalg.svd, small))
    runs = {
        "ours": lambda: ours(W_Q, W_K),
        "transformerlens": lambda: transformerlens_svd(A, B),
        "ceiling": lambda: ceiling(small),
        "ours_on_all": on_every_device(spectrum, W_Q, W_K),
        "ceiling_on_all": on_every_device(jnp.linalg.svd, small),
    }
    values = np.asarray(runs["ours"]().values)
    for other in (runs["transformerlens"]()[1].cpu().numpy(), np.asarray(full(W_Q, W_K)[1])[:, :H]):
        assert (abs(values - other) < TOLERANCE * values[:, :1]).all()
    double = factors.astype(float)
    R, S = (np.linalg.qr(W.swapaxes(1, 2)).R for W in double)
    exact = np.linalg.svd(R @ S.swapaxes(1, 2), compute_uv=False)
    seconds = interleaved(runs)
    pair = interleaved({"ours": runs["ours"], "full": lambda: full(W_Q, W_K)}, rounds=5)
    return {
        "decomposition_error": float((abs(values - exact) / exact[:, :1]).max()),
        "decomposition_ratio_full_svd": ratio(pair["full"], pair["ours"]),
        "decomposition_over_ceiling": ratio(seconds["ours"], seconds["ceiling"]),
        "decomposition_on_all_over_ceiling": ratio(seconds["ours_on_all"], seconds["ceiling"]),
        "decomposition_on_all_over_ceiling_on_all": ratio(seconds["ours_on_all"], seconds["ceiling_on_all"]),
        "decomposition_ratio_transformerlens": ratio(seconds["transformerlens"], seconds["ours"]),
        "decomposition_s": float(np.median(seconds["ours"])),
        "decomposition_ceiling_s": float(np.median(seconds["ceiling"])),
    }
