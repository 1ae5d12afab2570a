"""Several hypotheses and heads at once are what each is alone."""

import jax
import numpy as np
import pytest

from svtheory.heads.hypotheses import Hypothesis
from svtheory.instruments.hypothesised import Factors, Reading, side_by_side

D, H, SAMPLES = 6, 3, 60


@pytest.mark.slow
def test_what_is_shared_changes_nothing():
    """Members, turned heads and resamples of three hypotheses of different shapes and two heads, of one key."""
    rng = np.random.default_rng(0)
    W, b, inputs = rng.normal(size=(2, 2, H, D)), rng.normal(size=(2, 2, H)), rng.normal(size=(2, SAMPLES, D)) + 1
    made = [
        Hypothesis(name, rng.normal(size=(SAMPLES, N)), rng.normal(size=(SAMPLES, M)), rng.normal(size=(P, N, M)))
        for name, P, N, M in (("one", 1, 4, 3), ("family", 3, 2, 5), ("flat", 1, 1, 2))
    ]
    with jax.enable_x64(True):
        key = jax.random.key(0)
        together = Reading.of(Factors.of(*W, *b), tuple(inputs), side_by_side(made, W.dtype), True)
        for head in range(2):
            factors = Factors.of(*W[:, head : head + 1], *b[:, head : head + 1])
            for a, (hypothesis, end) in enumerate(zip(made, (1, 4, 5), strict=True)):
                alone = Reading.of(factors, tuple(inputs), side_by_side([hypothesis], W.dtype), True)
                own = slice(end - len(hypothesis.family), end)
                for ours, theirs in zip(together.held.fit, alone.held.fit, strict=True):
                    np.testing.assert_allclose(ours[head, own], theirs[0], rtol=1e-7)
                assert together.held.best[head, a] - own.start == alone.held.best[0, 0]
                np.testing.assert_allclose(together.held.least[head, a], alone.held.least[0, 0], rtol=1e-9)
                np.testing.assert_allclose(together.turned(key, 20)[head, a], alone.turned(key, 20)[0, 0], atol=1e-9)
                drawn = together.resampled(key, 5)[head, :, own], alone.resampled(key, 5)[0]
                np.testing.assert_allclose(*drawn, atol=1e-9)
                ours, theirs = together.contrasts(key), alone.contrasts(key)
                np.testing.assert_allclose(ours["cosine"][head, a], theirs["cosine"][0, 0], rtol=1e-6)
                # of three, five and two key features there are 2, 44 and 1 derangements
                new = ~np.isnan(np.asarray(together.permuted(key, 400)[head, a]))
                assert new.sum() == (2, 44, 1)[a]
