"""Padding behind the last token of a sequence has no part in any reading, whatever stands there."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle
from svtheory.instruments import align, explain, sad, spectra
from svtheory.instruments.sad_terms import PUBLISHED

RNG = np.random.default_rng(0)
HEADS, H, D, SEQUENCES, N, MORE = 2, 3, 4, 3, 6, 2
W_Q, W_K = RNG.normal(size=(2, 1, HEADS, H, D)).astype(np.float32)
b_Q = RNG.normal(size=(1, HEADS, H)).astype(np.float32)
TOKENS = RNG.normal(size=(1, SEQUENCES, N, D)).astype(np.float32)
FEATURES = RNG.normal(size=(D, 5)).astype(np.float32)
SURVEYS = {
    "sad": lambda bundle: sad.survey(bundle, sad.Settings(draws=19)),
    "spectra": lambda bundle: spectra.survey(bundle, spectra.Settings(resamples=4, gaussians=2)),
    "explain": lambda bundle: explain.survey(with_tokens(bundle), settings=explain.Settings(draws=19, resamples=2)),
    "align": lambda bundle: align.survey(bundle, FEATURES, align.Settings(draws=19)),
}
NAMES = ["spectra", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sad", "explain", "align"))]


def with_tokens(bundle):
    """The bundle with tokens, which differ where its padding does."""
    size = float(abs(bundle.attn_in[~bundle.real[None]]).max(initial=0))
    tokens = np.random.default_rng(2).integers(0, 2, (SEQUENCES, N + MORE))[:, : bundle.attn_in.shape[2]]
    return dataclasses.replace(bundle, others={"tokens": np.where(bundle.real, tokens, int(size > 100))})


def padded(size, ends):
    """The sequences up to these ends, with something of this size behind them."""
    rest = size * np.random.default_rng(1).normal(size=(1, SEQUENCES, N + MORE, D)).astype(np.float32)
    mask = np.arange(N + MORE) < np.array(ends)[:, None]
    read = np.where(mask[None, ..., None], np.pad(TOKENS, ((0, 0), (0, 0), (0, MORE), (0, 0))), rest)
    return HeadBundle(W_Q, W_K, b_Q, attn_in=read, mask=mask)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_there_changes_nothing(name):
    small, large = (SURVEYS[name](padded(size, (N, N - 2, N))) for size in (0.5, 1e3))
    xr.testing.assert_identical(small, large)


@pytest.mark.parametrize("name", NAMES)
def test_readings_are_those_without_it(name):
    """Of sequences of one length, each with padding behind it: decisions, moments and chances, draw by draw."""
    longer = SURVEYS[name](padded(1e3, (N, N, N)))
    plain = SURVEYS[name](HeadBundle(W_Q, W_K, b_Q, attn_in=TOKENS))
    if "query" in plain.dims:
        assert [[row[rule] for rule in PUBLISHED] for row in sad.rows(longer)] == [
            [row[rule] for rule in PUBLISHED] for row in sad.rows(plain)
        ]
        rest = longer.isel(query=slice(plain.sizes["query"], None))
        assert rest[["sparseness", "decision_p_value", "count"]].to_array().isnull().all()
        longer = longer.isel(query=slice(plain.sizes["query"]))
    if "kind" in plain.dims:  # of Gaussian inputs as many are drawn as there are rows
        longer, plain = (x.sel(null=x.null != "gaussian", kind=x.kind != "gaussian") for x in (longer, plain))
    for variable in plain.data_vars:
        if plain[variable].dtype.kind == "f":
            np.testing.assert_allclose(longer[variable], plain[variable], rtol=1e-4, atol=1e-5, err_msg=variable)
