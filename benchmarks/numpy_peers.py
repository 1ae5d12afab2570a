"""What a user of NumPy would write instead of the instruments, with NumPy's random numbers and LAPACK, in float32.

They compute what the library does: vectorised, products and factorisations kept small, as an expert would write it; and
of `explain` and `sparseness_test` also by definition, as their docstrings read.
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TIMES = 33
TOGETHER = 64  # draws at a time: numpy's batched QR and products


def balanced_layer(W_Q: np.ndarray, W_K: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Values (heads, H) of heads (heads, H, D) that share their moments, patterns and probes computed and dropped."""
    (query, query_root), (key, key_root) = _root(A), _root(B)
    values = []
    for left, right in zip((W_Q @ query) * query_root, (W_K @ key) * key_root, strict=True):
        U, s, Vt = np.linalg.svd(left.T @ right)
        H = len(left)
        for axes, root, vectors in ((query, query_root, U[:, :H]), (key, key_root, Vt[:H].T)):
            _ = axes @ (root[:, None] * vectors), axes @ (vectors / root[:, None])
        values.append(s[:H])
    return np.array(values)


def _root(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, axes = np.linalg.eigh(moment)
    return axes, np.sqrt(values)


def explain(
    W_Q: np.ndarray,
    W_K: np.ndarray,
    query: tuple[np.ndarray, np.ndarray],
    key: tuple[np.ndarray, np.ndarray],
    template: np.ndarray,
    draws: int,
) -> tuple[float, float, np.ndarray]:
    """Functional cosine of a hypothesis, its p-value beside turned heads, and cosines of deranged templates."""
    rng, H = np.random.default_rng(0), len(W_Q)
    (U, s, left), (V, t, right) = (_whitened(*side) for side in (query, key))
    rates = np.outer(s**2, t**2).ravel()
    times = np.geomspace(0.01 / rates.max(), 100 / rates.min(), TIMES)
    share = -np.expm1(-rates * times[:, None]).astype(np.float32)

    def nearest(O: np.ndarray, C: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(O, axis=1)[:, None] * np.sqrt(share**2 @ C**2)
        return (O @ (C * share).T / lengths).max(axis=1)

    O = (s[:, None] * (U.T @ W_Q.T)) @ (W_K @ V * t)
    found = nearest(O.reshape(1, -1), (left.T @ template @ right).ravel())[0]
    seen, raw = (np.linalg.svd(a, compute_uv=False)[:H] for a in (O, W_Q.T @ W_K))
    null, rivals = [], []
    for first in range(0, draws, TOGETHER):
        n = min(TOGETHER, draws - first)
        P, Q, E, F = (_haar(rng, n, size, H) for size in (len(s), len(t), len(s), len(t)))
        turned = ((s[:, None] * E) * raw) @ (t[:, None] * F).swapaxes(1, 2), (P * seen) @ Q.swapaxes(1, 2)
        null.append([nearest(a.reshape(n, -1), (left.T @ template @ right).ravel()) for a in turned])
        orders = np.array([_derangement(rng, template.shape[1]) for _ in range(n)])
        cores = (left.T @ template)[:, orders].swapaxes(0, 1) @ right
        cores = cores.reshape(n, -1)
        lengths = np.sqrt(cores**2 @ (share**2).T) * np.linalg.norm(O)
        rivals.append(((cores * O.ravel()) @ share.T / lengths).max(axis=1))
    beyond = (np.concatenate(null, axis=1) >= found).sum(axis=1).max()
    return float(found), float((1 + beyond) / (1 + draws)), np.concatenate(rivals)


def _whitened(x: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes U (D, r) and roots s of the moment, of mean 1, and features in whitened samples, (N, r)."""
    x, f = x - x.mean(axis=0), f - f.mean(axis=0)
    P, s, Ut = np.linalg.svd(x, full_matrices=False)
    return Ut.T, s / np.sqrt((s**2).mean()), f.T @ P


def _haar(rng: np.random.Generator, n: int, size: int, H: int) -> np.ndarray:
    Q, R = np.linalg.qr(rng.standard_normal((n, size, H), np.float32))
    return Q * np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None]


def _derangement(rng: np.random.Generator, n: int) -> np.ndarray:
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order


def explain_by_definition(
    W_Q: np.ndarray,
    W_K: np.ndarray,
    query: tuple[np.ndarray, np.ndarray],
    key: tuple[np.ndarray, np.ndarray],
    template: np.ndarray,
    draws: int,
) -> tuple[float, float, np.ndarray]:
    """The same draw by draw, as the docstring of `explain` says it: matrices of D x D, nothing factored or batched."""
    rng, ((A, f), (B, g)) = np.random.default_rng(0), (_moments(*side) for side in (query, key))
    (lam, U), (mu, V) = np.linalg.eigh(A), np.linalg.eigh(B)
    rates = np.outer(lam, mu)
    times = np.geomspace(0.01 / rates.max(), 100 / rates.min(), TIMES)
    A_root, B_root = (E * np.sqrt(values) @ E.T for E, values in ((U, lam), (V, mu)))

    def nearest(omega: np.ndarray, T: np.ndarray) -> float:
        O, M = U.T @ omega @ V, (U / np.sqrt(lam)).T @ f @ T @ g.T @ (V / np.sqrt(mu))
        learnt = (M * -np.expm1(-rates * time) for time in times)
        return max(float((O * P).sum() / np.linalg.norm(O) / np.linalg.norm(P)) for P in learnt)

    omega = W_Q.T @ W_K
    seen = A_root @ omega @ B_root
    found, null, rivals = nearest(seen, template), [], []
    for _ in range(draws):
        P, Q, R, S = (_rotation(rng, len(a)) for a in (A, B, A, B))
        null.append((nearest(P @ seen @ Q.T, template), nearest(A_root @ R @ omega @ S.T @ B_root, template)))
        rivals.append(nearest(seen, template[:, _derangement(rng, template.shape[1])]))
    beyond = (np.array(null) >= found).sum(axis=0).max()
    return found, float((1 + beyond) / (1 + draws)), np.array(rivals)


def _moments(x: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The covariance of samples (n, D), of mean eigenvalue 1, and theirs with features, (D, N)."""
    x, f = x - x.mean(axis=0), f - f.mean(axis=0)
    return x.T @ x / (x**2).sum() * x.shape[1], x.T @ f


def _rotation(rng: np.random.Generator, n: int) -> np.ndarray:
    return _haar(rng, 1, n, n)[0]


def sparseness_test(W_Q: np.ndarray, W_K: np.ndarray, x: np.ndarray, draws: int) -> tuple[float, float]:
    """Mean sparseness of a causal head without biases on tokens x (sequences, T, D), and its p-value."""
    rng, (H, D), tokens = np.random.default_rng(0), W_Q.shape, x.reshape(-1, x.shape[-1])
    visible = np.tril(np.ones((x.shape[1], x.shape[1]), bool))

    def sparseness(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.reshape(*x.shape[:2], H), b.reshape(*x.shape[:2], H)
        scores = np.where(visible, a @ b.swapaxes(1, 2), -np.inf)
        chosen = np.take_along_axis(b, scores.argmax(axis=2)[..., None], axis=1)
        seen = np.cumsum(b, axis=1)
        others = np.maximum(np.arange(x.shape[1]), 1)[:, None]
        c = np.abs(a * (chosen - (seen - chosen) / others))[:, 1:]
        return float((c.mean(axis=2) ** 2 / (c**2).mean(axis=2)).mean())

    (query, R), (key, S) = np.linalg.qr(W_Q.T), np.linalg.qr(W_K.T)
    u, s, vt = np.linalg.svd(R @ S.T)
    bases = u * np.sqrt(s), vt.T * np.sqrt(s)
    found = sparseness(tokens @ query @ bases[0], tokens @ key @ bases[1])
    whitened, factors, scales = [], [], []
    for W, side in ((W_Q, tokens), (W_K, tokens - tokens.mean(axis=0))):
        P, lengths, axes = np.linalg.svd(side, full_matrices=False)
        root = lengths / np.sqrt(np.float32(len(side)))
        whitened.append(P * np.sqrt(np.float32(len(side))))
        factors.append(np.linalg.qr((W @ axes.T * root).T).R)
        scales.append(1 / root[:, None])
    M, null = factors[0] @ factors[1].T, []
    for _ in range(draws):
        E, F, P, Q = _haar(rng, 4, D, H)
        raw = sparseness(tokens @ E @ bases[0], tokens @ F @ bases[1])
        A, B = (np.asarray(np.linalg.qr(scale * a, mode="r")) for scale, a in zip(scales, (P, Q), strict=True))
        u, s, vt = np.linalg.svd(A @ M @ B.T)
        left, right = np.linalg.solve(A, u * np.sqrt(s)), np.linalg.solve(B, vt.T * np.sqrt(s))
        null.append((raw, sparseness(whitened[0] @ P @ left, whitened[1] @ Q @ right)))
    return found, float((1 + (np.array(null) <= found).sum(axis=0).max()) / (1 + draws))


def sparseness_by_definition(W_Q: np.ndarray, W_K: np.ndarray, x: np.ndarray, draws: int) -> tuple[float, float]:
    """The same draw by draw, as the docstring of `sparseness_test` says it: matrices of D x D, decision by decision."""
    rng, (H, D), tokens = np.random.default_rng(0), W_Q.shape, x.reshape(-1, x.shape[-1])
    keys = tokens - tokens.mean(axis=0)
    (A, A_inverse), (B, B_inverse) = (_roots(side.T @ side / len(side)) for side in (tokens, keys))

    def sparseness(omega: np.ndarray) -> float:
        U, s, Vt = np.linalg.svd(omega)
        found = []
        for sequence in x:
            a, b = sequence @ U[:, :H] * s[:H], sequence @ Vt[:H].T
            for t in range(1, len(sequence)):
                terms = a[t] * b[: t + 1]
                chosen = terms.sum(axis=1).argmax()
                c = np.abs(terms[chosen] - np.delete(terms, chosen, axis=0).mean(axis=0))
                found.append(c.mean() ** 2 / (c**2).mean())
        return float(np.mean(found))

    omega = W_Q.T @ W_K
    seen, found, null = A @ omega @ B, sparseness(omega), []
    for _ in range(draws):
        P, Q, R, S = (_rotation(rng, D) for _ in range(4))
        null.append((sparseness(P.T @ omega @ Q), sparseness(A_inverse @ R.T @ seen @ S @ B_inverse)))
    return found, float((1 + (np.array(null) <= found).sum(axis=0).max()) / (1 + draws))


def _roots(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes, root = _root(moment)
    return axes * root @ axes.T, axes / root @ axes.T


def read_gpt2(folder: Path, tokens: np.ndarray, heads: int) -> dict[str, Any]:
    """What the heads of a GPT-2 read, normalised, (layers, sequences, T, D), and their factors with gains folded in."""
    w = load_file(folder / "model.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("transformer.h."))
    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]]
    hidden = np.where(np.tril(np.ones((tokens.shape[1],) * 2, bool)), np.float32(0), np.float32(-np.inf))
    read, W_Q, W_K = [], [], []
    for layer in range(layers):
        of = {name.split(f".h.{layer}.")[1]: a for name, a in w.items() if f".h.{layer}." in name}
        normal = _normalised(x)
        read.append(normal)
        given = normal * of["ln_1.weight"] + of["ln_1.bias"]
        q, k, v = np.split(given @ of["attn.c_attn.weight"] + of["attn.c_attn.bias"], 3, axis=-1)
        q, k, v = (a.reshape(*a.shape[:2], heads, -1).swapaxes(1, 2) for a in (q, k, v))
        scores = q @ k.swapaxes(2, 3) / np.sqrt(np.float32(q.shape[-1])) + hidden
        paid = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (paid / paid.sum(axis=-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + mixed @ of["attn.c_proj.weight"] + of["attn.c_proj.bias"]
        given = _normalised(x) * of["ln_2.weight"] + of["ln_2.bias"]
        inner = given @ of["mlp.c_fc.weight"] + of["mlp.c_fc.bias"]
        inner = inner / 2 * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (inner + np.float32(0.044715) * inner**3)))
        x = x + inner @ of["mlp.c_proj.weight"] + of["mlp.c_proj.bias"]
        Q, K, _ = np.split((of["attn.c_attn.weight"] * of["ln_1.weight"][:, None]).T, 3)
        Q, K = (W - W.mean(axis=1, keepdims=True) for W in (Q, K))  # what reads is centred
        W_Q.append(Q.reshape(heads, -1, Q.shape[-1]))
        W_K.append(K.reshape(heads, -1, K.shape[-1]))
    return {"attn_in": np.stack(read), "W_Q": np.stack(W_Q), "W_K": np.stack(W_K)}


def _normalised(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + np.float32(1e-5))
