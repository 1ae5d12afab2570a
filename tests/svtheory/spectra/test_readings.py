import jax
import jax.numpy as jnp
import numpy as np

from svtheory.spectra import READINGS, Tokens, readings

D, H = 5, 3


def test_patterns_and_probes_of_all_readings_against_numpy(dtype):
    rng = np.random.default_rng(0)
    W_Q, W_K, R, S = (rng.normal(size=shape) for shape in ((H, D), (H, D), (9, D), (9, D)))
    found = jax.jit(readings)(
        *(jnp.asarray(W, dtype) for W in (W_Q, W_K)), *(Tokens(jnp.asarray(x, dtype)) for x in (R, S))
    )
    assert tuple(sorted(found)) == tuple(sorted(READINGS))
    U, values, Vt = np.linalg.svd(W_Q.T @ W_K)
    moments = R.T @ R / 9, S.T @ S / 9
    tolerance = 1e4 * float(jnp.finfo(dtype).eps)
    for side, vectors, A in (("query", U[:, :H], moments[0]), ("key", Vt[:H].T, moments[1])):
        raw, unwhitened = found["raw"], found["unwhitened"]
        wanted = {
            "raw": (raw, vectors, vectors),
            "unwhitened": (unwhitened, A @ vectors, np.linalg.solve(A, vectors)),
        }
        for reading, patterns, probes in wanted.values():
            np.testing.assert_allclose(reading.values, values[:H], rtol=tolerance)
            for kind, columns in (("patterns", patterns), ("probes", probes)):
                seen = np.asarray(getattr(reading, f"{side}_{kind}"))
                signs = np.sign((seen * columns).sum(axis=0))
                np.testing.assert_allclose(seen * signs, columns, atol=tolerance * np.abs(columns).max())
        for reading in found.values():
            probes, patterns = (np.asarray(getattr(reading, f"{side}_{kind}")) for kind in ("probes", "patterns"))
            np.testing.assert_allclose((probes * patterns).sum(axis=0), 1, atol=tolerance)
