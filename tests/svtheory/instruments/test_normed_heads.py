"""Instruments on heads with normalised queries and keys: those of plain heads on tokens that they rescale (T23)."""

import jax.numpy as jnp
import numpy as np
import pytest

from svtheory import HeadBundle, decompose
from svtheory.checks import InputError
from svtheory.heads.decomposition import relative_attention
from svtheory.heads.rescaled import without_norms
from svtheory.heads.sparsity import decision_sparseness
from svtheory.instruments import align, conditions, explain, sad, spectra

LAYERS, HEADS, H, D, S, n = 2, 2, 4, 6, 5, 8
RNG = np.random.default_rng(7)
TOKENS = RNG.integers(0, 4, (S, n))
READ = (RNG.normal(size=(LAYERS, 4, D))[:, TOKENS] + 0.5 * RNG.normal(size=(LAYERS, S, n, D))).astype(np.float32)
W_Q, W_K = RNG.normal(size=(2, LAYERS, HEADS, H, D)).astype(np.float32)
GAINS = {name: (1 + 0.3 * RNG.normal(size=(LAYERS, HEADS, H))).astype(np.float32) for name in ("q_gain", "k_gain")}
SAID = {"score_divisor": "2", "query_key_epsilon": "1e-6"}


def normed(kind="per head", read=READ, **weights):
    given = {"W_Q": W_Q, "W_K": W_K, **weights}
    gains = {name: gain[:, : given["W_Q"].shape[1]] for name, gain in GAINS.items()}
    return HeadBundle(
        **given, attn_in=read, others={**gains, "tokens": TOKENS}, metadata={**SAID, "query_key_norm": kind}
    )


@pytest.mark.parametrize("kind", ["per head", "all heads"])
def test_scores_of_plain_heads_on_rescaled_tokens(kind):
    plain, scales = without_norms(normed(kind))
    for layer, head in np.ndindex(LAYERS, HEADS):
        found = []
        for W, gain, scale in ((W_Q, "q_gain", scales.query), (W_K, "k_gain", scales.key)):
            projected = READ[layer].astype(float) @ W[layer].reshape(-1, D).T
            own = projected.reshape(S, n, HEADS, H)[:, :, head]
            over = own if kind == "per head" else projected
            exact = own / np.sqrt((over**2).mean(axis=-1, keepdims=True) + 1e-6) * GAINS[gain][layer, head]
            own = getattr(plain, "W_Q" if gain == "q_gain" else "W_K")[layer, head]
            found.append((READ[layer] * scale[layer, head][..., None]) @ own.T)
            assert np.abs(found[-1] - exact).max() <= 1e-5 * np.abs(exact).max()


def test_spectra_are_those_of_gains_and_rescaled_tokens():
    found = spectra.survey(normed(), spectra.Settings(resamples=2, gaussians=2))
    plain, scales = without_norms(normed())
    for layer, head in np.ndindex(LAYERS, HEADS):
        omega = plain.W_Q[layer, head].astype(float).T @ plain.W_K[layer, head]
        r, s = ((READ[layer] * x[layer, head][..., None]).reshape(-1, D).astype(float) for x in scales)
        raw, balanced = found.singular_value.sel(layer=layer, head=head).values
        assert raw == pytest.approx(np.linalg.svd(omega)[1][:H], rel=1e-4)
        whitened = np.linalg.cholesky(r.T @ r / len(r)).T @ omega @ np.linalg.cholesky(np.cov(s.T, bias=True))
        assert balanced == pytest.approx(np.linalg.svd(whitened)[1][:H], rel=1e-3)
        largest = np.linalg.norm(r, axis=1).max() * np.linalg.norm(s, axis=1).max() * np.linalg.svd(omega)[1][0] / 2
        assert float(found.largest_score[layer, head]) == pytest.approx(largest, rel=1e-4)


def test_training_is_not_asked_about():
    asked = conditions.Request()
    sentence = "^query_key_norm must be 'none' where it is asked what training makes of a head"
    for asks in (lambda: align.survey(normed(), np.eye(D)), lambda: conditions.of_head(normed(), asked)):
        with pytest.raises(InputError, match=sentence):
            asks()


@pytest.mark.slow
def test_sparseness_is_that_of_the_normed_heads_own_terms():
    found = sad.survey(normed("all heads"), sad.Settings(draws=19))
    for layer, head in np.ndindex(LAYERS, HEADS):
        read = jnp.asarray(READ[layer])
        d = decompose(normed("all heads").head(layer, head), read, read, None)
        S = np.asarray(decision_sparseness(relative_attention(d), d.size))[:, 1:]
        there = found.sparseness.sel(layer=layer, head=head, reading="raw")
        assert there.values == pytest.approx(S, abs=1e-4, nan_ok=True)
    assert float(found.score_error.max()) <= 1e-4


INSTRUMENTS = {
    "spectra": lambda bundle: spectra.survey(bundle, spectra.Settings(resamples=2, gaussians=2)),
    "sad": lambda bundle: sad.survey(bundle, sad.Settings(draws=39)),
    "explain": lambda bundle: explain.survey(bundle, settings=explain.Settings(draws=99, resamples=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_one_head_with_one_factor_is_a_plain_head(name):
    """Where W_K is W_Q and heads are alone, both sides rescale alike: a plain bundle of such tokens says the same.

    So does one whose tokens are of other lengths, which normalisation takes out.
    """
    own = {"W_Q": W_Q[:, :1], "W_K": W_Q[:, :1]}
    plain, scales = without_norms(normed(**own))
    rescaled = HeadBundle(
        plain.W_Q,
        plain.W_K,
        attn_in=READ * scales.query[:, 0, ..., None],
        others={"tokens": TOKENS},
        metadata=dict(plain.metadata),
    )
    longer = READ * np.exp(RNG.normal(size=(LAYERS, S, n, 1))).astype(np.float32)
    expected = INSTRUMENTS[name](rescaled)
    for read in (READ, longer):
        found = INSTRUMENTS[name](normed(read=read, **own))
        for column in found.data_vars:
            # the time that fits best is flat where a hypothesis explains little
            if found[column].dtype.kind == "f" and not any(word in column for word in ("gaussian", "time")):
                a, b = (np.abs(x[column].values) for x in (found, expected))  # of vectors no sign is known
                assert a == pytest.approx(b, rel=2e-3, abs=2e-3, nan_ok=True), column


def test_fewer_tokens_than_a_head_has_modes():
    """Their moments have fewer axes; the modes beyond these have the value 0."""
    few = normed(read=READ[:, :1, :3])
    few = HeadBundle(few.W_Q, few.W_K, attn_in=few.attn_in, metadata=few.metadata)
    found = spectra.survey(few, spectra.Settings(resamples=2, gaussians=2))
    assert found.singular_value.sizes["pair"] == H
    values = found.singular_value.sel(reading="balanced").values
    assert (values[..., 2:] <= 1e-6 * values[..., :1]).all()  # keys are centred: two of three tokens are left
    assert (values[..., 1] > 1e-3 * values[..., 0]).all()
