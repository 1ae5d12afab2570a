"""The paper's toy model: a ReLU autoencoder of sparse features and one attention head, trained together.

Arrays run features first, batch last: `f` of shape (N, 1 + m, B) holds the activations of one query token and m key
tokens in each of B contexts. The batch is the contiguous axis, which is fastest on a CPU. Tokens `r = W f` are never
formed where their overlaps `W^T W` serve: at N = 2 D that is fewer operations, forward and backward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from svtheory import BernoulliUniform
from svtheory.pytrees import pytree
from svtheory.threefry import uniform

# products that accelerators would otherwise round to fewer digits
product = partial(jnp.einsum, precision="highest")


def between(left: Array, right: Array, f: Array) -> Array:
    """`left^T right f` of activations f (N, ...) for two maps (D, N), shape (N, ...), in the cheaper order.

    `left^T right` first takes 2 N^2 products an activation vector, forward and backward; map after map, 5 N D.
    """
    D, N = left.shape
    flat = f.reshape(N, -1)  # one axis to sum over in the gradient; over two, XLA would transpose first
    if 2 * N <= 5 * D:
        passed = product("nm,mk->nk", product("dn,dm->nm", left, right), flat)
    else:
        passed = product("dn,dk->nk", left, product("dm,mk->dk", right, flat))
    return passed.reshape(f.shape)


@jax.custom_vjp
def inner(a: Array, b: Array) -> Array:
    """`sum_n a_nb b_njb`, shape (m, B); term by term, for XLA's own sum and its gradient copy `a` m times first.

    On a CPU in a loop: written out, the terms become part of the sums that read them, and all b is copied for those.
    """
    return jax.lax.platform_dependent(a, b, cpu=_looped, default=_written_out)


def _looped(a: Array, b: Array) -> Array:
    nothing = jnp.zeros(b.shape[1:], b.dtype)
    return jax.lax.fori_loop(0, len(a), lambda n, total: total + a[n][None] * b[n], nothing)


def _written_out(a: Array, b: Array) -> Array:
    return sum((x[None] * y for x, y in zip(a[1:], b[1:], strict=True)), a[0][None] * b[0])


def _inner_backward(given: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    a, b = given
    columns = (s[None] * b[:, j] for j, s in enumerate(slope))
    return sum(columns, jnp.zeros_like(a)), a[:, None] * slope[None]


inner.defvjp(lambda a, b: (inner(a, b), (a, b)), _inner_backward)


class Toy(nnx.Module):
    """Tokens `r = W f`, reconstruction `f' = ReLU(W^T r + b)`, logits `l_j = (W_Q r + b_Q)^T W_K s_j`.

    W (D, N), b (N,), W_Q and W_K (H, D), b_Q (H,) or None without a query bias.
    """

    def __init__(self, n_features: int, dim: int, head_dim: int, *, query_bias: bool = False, rngs: nnx.Rngs):
        def normal(*shape):  # columns of unit expected length
            return nnx.Param(jax.random.normal(rngs.params(), shape, float) / shape[0] ** 0.5)

        self.W = normal(dim, n_features)
        self.b = nnx.Param(jnp.zeros(n_features, float))
        self.W_Q, self.W_K = normal(head_dim, dim), normal(head_dim, dim)
        self.b_Q = nnx.Param(jnp.zeros(head_dim, float)) if query_bias else None

    def reconstruction(self, f: Array) -> Array:
        """`f' = ReLU(W^T W f + b)`, shape (N, 1 + m, B)."""
        return jax.nn.relu(between(self.W[...], self.W[...], f) + self.b[:, None, None])

    def logits(self, f: Array) -> Array:
        """`l_j` of the query (first token) with each key (the others), shape (m, B)."""
        queries, keys = (product("hd,dn->hn", factor, self.W) for factor in (self.W_Q, self.W_K))
        # the query is carried to the keys' features: one product, where projecting every key would take m
        carried = between(keys, queries, f[:, 0])
        if self.b_Q is not None:
            carried += product("hn,h->n", keys, self.b_Q)[:, None]
        return inner(carried, f[:, 1:])


def losses(toy: Toy, f: Array, target: Array, objective: str) -> tuple[Array, Array]:
    """`(L_recon, L_attn)` on activations f (N, 1 + m, B) for the template T (N, N).

    `L_recon` is the mean over tokens of `|f - f'|^2`. `L_attn` is the mean over contexts of the cross-entropy between
    softmax_j of the asked and the given logits ("softmax"), or the mean over pairs of `(1/2)(l - l^T)^2` ("square").
    """
    reconstruction = jnp.mean(jnp.sum((f - toy.reconstruction(f)) ** 2, axis=0))
    logits, asked = toy.logits(f), asked_logits(f, target)
    if objective == "square":
        return reconstruction, jnp.mean((logits - asked) ** 2) / 2
    cross_entropy = -jnp.sum(jax.nn.softmax(asked, axis=0) * jax.nn.log_softmax(logits, axis=0), axis=0)
    return reconstruction, jnp.mean(cross_entropy)


def asked_logits(f: Array, target: Array) -> Array:
    """`l^T_j = sum_ij T_ij f_i^(r) f_j^(s)` for activations f (N, 1 + m, B), shape (m, B)."""
    return inner(product("in,ib->nb", target, f[:, 0]), f[:, 1:])


def activations(law: BernoulliUniform, key: Array, n_keys: int, batch: int) -> Array:
    """Draws of the law, shape (N, 1 + n_keys, batch), made features first: moving the axis later takes longer."""
    p = jnp.broadcast_to(law.probability, (law.size,))[:, None, None]
    u = uniform(key, (law.size, 1 + n_keys, batch), p.dtype)
    return jnp.where(u < p, u / p, 0)


@pytree()
@dataclass(frozen=True)
class Problem:
    """What one toy is trained on; a pytree.

    law        of the activations f of every token
    target     the template T, shape (N, N)
    coupling   the weight lambda of the attention loss, a scalar
    """

    law: BernoulliUniform
    target: Array
    coupling: Array | float


def start_and_update(
    build: Callable[[nnx.Rngs], Toy], *, objective: str, n_keys: int, batch: int, rate: float, steps: int
) -> tuple[Callable, Callable]:
    """`(start, update)` for `ensemble.train`: AdamW on `L_recon + lambda L_attn`, the rate falling to 0 as a cosine.

    `start(key)` makes a member, the dict of its "parameters" and optimizer "state"; `update(member, key, problem)` is
    one step on a fresh batch, with metrics "reconstruction" and "attention".
    """
    graph = nnx.graphdef(jax.eval_shape(lambda: build(nnx.Rngs(0))))
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps))

    def start(key: Array) -> dict[str, Any]:
        parameters = nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key))))
        return {"parameters": parameters, "state": optimizer.init(parameters)}

    def loss(parameters, f, problem):
        reconstruction, attention = losses(nnx.merge(graph, parameters), f, problem.target, objective)
        metrics = {"reconstruction": reconstruction, "attention": attention}
        return reconstruction + problem.coupling * attention, metrics

    def update(member: dict[str, Any], key: Array, problem: Problem) -> tuple[dict[str, Any], dict[str, Array]]:
        f = activations(problem.law, key, n_keys, batch)
        gradient, metrics = jax.grad(loss, has_aux=True)(member["parameters"], f, problem)
        change, state = optimizer.update(gradient, member["state"], member["parameters"])
        return {"parameters": optax.apply_updates(member["parameters"], change), "state": state}, metrics

    return start, update
