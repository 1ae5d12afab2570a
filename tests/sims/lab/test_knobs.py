import jax
import jax.numpy as jnp
import numpy as np

from sims.lab import knobs
from svtheory import alignment, alignment_bound, condition_number, dual_frame, predict


def test_scenarios_have_what_their_knob_says():
    with jax.enable_x64(True):
        key = jax.random.key(1)
        assert jnp.linalg.matrix_rank(jax.jit(knobs.rank_deficient)(4.0, key).query_features) == knobs.D - 4
        crowded = jax.jit(knobs.crowded)(0.5, key).query_features
        assert (jnp.abs(crowded).sum(axis=0) > 0).sum() == 5
        assert np.isclose(condition_number(crowded), 10)
        worst = jax.jit(knobs.off_eigenvector)(1.0, key)
        bound = alignment_bound(worst.query_features)
        assert np.isclose(condition_number(worst.query_features), knobs.KAPPA)
        assert np.isclose(alignment(dual_frame(worst.query_features)[:, :1], worst.query_features[:, :1])[0, 0], bound)
        found = predict(worst).right[:, :1]
        assert np.isclose(alignment(found, worst.key_features[:, :1])[0, 0], bound)
