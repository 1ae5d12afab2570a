"""One command and one call from Python find the same: what stands in results.nc is what `survey` returns."""

import jax
import numpy as np
import pytest
import xarray as xr

from svtheory import HeadBundle, read_bundle, save_heads
from svtheory.instruments import align, conditions, explain, sad, spectra
from svtheory.instruments.command import run as command
from svtheory.instruments.dictionaries import Place, dictionary

HEADS, H, D, SYMBOLS, SEQUENCES, T = 2, 3, 6, 5, 8, 7
OPTIONS = {
    "spectra": [],
    "sad": ["--draws", "39"],
    "explain": ["--draws", "39", "--resamples", "4"],
    "align": ["--features", "W_E", "--draws", "39"],
    "conditions": ["--hypothesis", "previous token"],
}


def conditions_of(bundle):
    with jax.enable_x64(True):  # as the command does
        return conditions.survey(conditions.of_head(bundle, conditions.Request(hypothesis="previous token")))


SURVEYS = {
    "spectra": spectra.survey,
    "sad": lambda bundle: sad.survey(bundle, sad.Settings(draws=39)),
    "explain": lambda bundle: explain.survey(bundle, settings=explain.Settings(draws=39, resamples=4)),
    "align": lambda bundle: align.survey(bundle, dictionary("W_E", bundle, Place()).features, align.Settings(draws=39)),
    "conditions": conditions_of,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Heads that read the embeddings of tokens and of the tokens before these."""
    rng = np.random.default_rng(0)
    W_Q, W_K = rng.normal(size=(2, 1, HEADS, H, D)).astype(np.float32)
    embedding, before = rng.normal(size=(2, SYMBOLS, D)).astype(np.float32)
    tokens = rng.integers(0, SYMBOLS, (SEQUENCES, T))
    read = embedding[tokens] + before[np.roll(tokens, 1, axis=1)]
    path = tmp_path_factory.mktemp("one_call") / "heads.safetensors"
    save_heads(path, HeadBundle(W_Q, W_K, attn_in=read[None], others={"tokens": tokens, "W_E": embedding}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_leaves_what_the_call_returns(name, source, tmp_path):
    command(name, [str(source), *OPTIONS[name], "--out", str(tmp_path)])
    (left,) = tmp_path.glob(f"{name}/*/results.nc")
    with xr.open_dataset(left, engine="h5netcdf") as stored:
        xr.testing.assert_equal(stored.load(), SURVEYS[name](read_bundle(source)))
