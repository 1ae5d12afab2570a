import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svtheory.factorisations import LARGE, factored_svd

H, D = LARGE, 3 * LARGE


def factors(condition):
    """Of two sizes, rows neither orthogonal nor of one length, of one condition number; 0 for rows that depend."""
    rng = np.random.default_rng(0)

    def factor(columns):
        U, V = (np.linalg.qr(rng.normal(size=(n, H)))[0] for n in (H, columns))
        return (U * np.geomspace(condition or 1, 1, H) * (np.arange(H) < H - 3 * (condition == 0))) @ V.T

    return factor(D), factor(D - 5)


program = jax.jit(jax.default_matmul_precision("highest")(factored_svd))


@pytest.mark.parametrize("condition", [1.5, 100, 3e3, 1e6, 0])
def test_large_factors_of_any_condition(dtype, eps, condition):
    """Vectors are orthonormal and the product is theirs to rounding, also where a Gram matrix has lost the factor."""
    W_Q, W_K = factors(condition)
    U, values, Vt = map(np.asarray, program(jnp.asarray(W_Q, dtype), jnp.asarray(W_K, dtype)))
    exact = W_Q.T @ W_K
    size = np.linalg.norm(W_Q, 2) * np.linalg.norm(W_K, 2)
    assert np.abs(values - np.linalg.svd(exact, compute_uv=False)[:H]).max() <= 20 * eps * size
    assert np.linalg.norm((U.astype(float) * values) @ Vt - exact, 2) <= 40 * eps * size
    for vectors in (U, Vt.T):
        assert np.abs(vectors.astype(float).T @ vectors - np.eye(H)).max() <= 40 * eps


def test_large_factors_under_vmap_and_their_derivative():
    with jax.enable_x64(True):
        heads = [jnp.stack(pair) for pair in zip(*(factors(condition) for condition in (1.5, 1e9)), strict=True)]
        together = jax.vmap(factored_svd)(*heads)
        for one, other in zip(together, program(heads[0][1], heads[1][1]), strict=True):
            np.testing.assert_allclose(one[1], other, atol=1e-12)
        W_Q, W_K = factors(100)
        directions = factors(10)
        first = jax.jit(lambda t: factored_svd(*(W + t * d for W, d in zip((W_Q, W_K), directions, strict=True)))[1][0])
        _, slope = jax.jvp(first, (0.0,), (1.0,))
        assert float(slope) == pytest.approx(float(first(1e-5) - first(-1e-5)) / 2e-5, rel=1e-6)
