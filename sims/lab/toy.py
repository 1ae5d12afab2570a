"""The paper's toy model: a ReLU autoencoder of sparse features and one attention head, trained together.

Arrays run features first, batch last: `f` of shape (N, 1 + m, B) holds the activations of one query token and m key
tokens in each of B contexts. The batch is the contiguous axis, which is fastest on a CPU.
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

# products that accelerators would otherwise round to fewer digits
product = partial(jnp.einsum, precision="highest")


def inner(a: Array, b: Array) -> Array:
    """`sum_d a_db b_djb`, shape (m, B); a fused sum, where a batched product would first transpose."""
    return jnp.sum(a[:, None] * b, axis=0)


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

    def tokens(self, f: Array) -> Array:
        """`r = W f`, shape (D, 1 + m, B)."""
        return product("dn,njb->djb", self.W, f)

    def reconstruction(self, tokens: Array) -> Array:
        """`f' = ReLU(W^T r + b)`, shape (N, 1 + m, B)."""
        return jax.nn.relu(product("dn,djb->njb", self.W, tokens) + self.b[:, None, None])

    def logits(self, tokens: Array) -> Array:
        """`l_j` of the query (first token) with each key (the others), shape (m, B)."""
        query = product("hd,db->hb", self.W_Q, tokens[:, 0])
        if self.b_Q is not None:
            query += self.b_Q[:, None]
        # the query is carried to the keys' space: one product, where projecting every key would take m
        return inner(product("hd,hb->db", self.W_K, query), tokens[:, 1:])


def losses(toy: Toy, f: Array, target: Array, objective: str) -> tuple[Array, Array]:
    """`(L_recon, L_attn)` on activations f (N, 1 + m, B) for the template T (N, N).

    `L_recon` is the mean over tokens of `|f - f'|^2`. `L_attn` is the mean over contexts of the cross-entropy between
    softmax_j of the asked and the given logits ("softmax"), or the mean over pairs of `(1/2)(l - l^T)^2` ("square").
    """
    tokens = toy.tokens(f)
    reconstruction = jnp.mean(jnp.sum((f - toy.reconstruction(tokens)) ** 2, axis=0))
    logits, asked = toy.logits(tokens), asked_logits(f, target)
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
    u = jax.random.uniform(key, (law.size, 1 + n_keys, batch), p.dtype)
    return jnp.where(u < p, u / p, 0)


@pytree()
@dataclass(frozen=True)
class Task:
    """What one toy is asked for; a pytree.

    law        of the activations f of every token
    target     the template T, shape (N, N)
    coupling   the weight lambda of the attention loss, a scalar
    """

    law: BernoulliUniform
    target: Array
    coupling: Array | float


def training(
    build: Callable[[nnx.Rngs], Toy], *, objective: str, n_keys: int, batch: int, rate: float, steps: int
) -> tuple[Callable, Callable]:
    """`(start, update)` for `ensemble.train`: AdamW on `L_recon + lambda L_attn`, the rate falling to 0 as a cosine.

    `start(key)` makes a member, the dict of its "parameters" and optimizer "state"; `update(member, key, task)` is one
    step on a fresh batch, with metrics "reconstruction" and "attention".
    """
    graph = nnx.graphdef(jax.eval_shape(lambda: build(nnx.Rngs(0))))
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps))

    def start(key: Array) -> dict[str, Any]:
        parameters = nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key))))
        return {"parameters": parameters, "state": optimizer.init(parameters)}

    def loss(parameters, f, task):
        reconstruction, attention = losses(nnx.merge(graph, parameters), f, task.target, objective)
        return reconstruction + task.coupling * attention, {"reconstruction": reconstruction, "attention": attention}

    def update(member: dict[str, Any], key: Array, task: Task) -> tuple[dict[str, Any], dict[str, Array]]:
        f = activations(task.law, key, n_keys, batch)
        gradient, metrics = jax.grad(loss, has_aux=True)(member["parameters"], f, task)
        change, state = optimizer.update(gradient, member["state"], member["parameters"])
        return {"parameters": optax.apply_updates(member["parameters"], change), "state": state}, metrics

    return start, update
