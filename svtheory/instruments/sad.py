"""Sparse attention decomposition: does a head need fewer singular vectors than chance would? (the paper's Figs 8, 9)

For every head of a bundle (safetensors: W_Q, W_K and attn_in, what they read) or of a checkpoint (a Hugging Face folder
of a model, with --text), each query's attention to the key it attends most is a decision. Its relative attention, that
key's score less the mean of the others', is the sum of terms c_k, one a singular pair; or, read balanced, one a mode of
the head as its data see it (T22). S is their Treves-Rolls sparseness, 1 for equal magnitudes and 1/K for a single term.
Heads that normalise their queries and keys are read by the tokens that each rescales for itself (T23).

A head is called sparser than chance when its mean S is below that of random heads on the same tokens (T22), read alike,
which keep its singular values, biases and rotary maps, rotate its singular vectors on both sides, and attend to a key
of their own: once with the singular values of Omega, once with those that the data see, and the larger p-value counts.
p-values are adjusted for the number of heads and readings (Benjamini and Hochberg); draws go on until the verdicts at
0.05 cannot change any more (Besag and Clifford), or for --draws at most, and one draw serves all heads of a layer.

The verdict on any other head is "low rank only" where it is sparser than Gaussian heads, read raw: of independent
entries, with its shape, the norms of its factors, its biases and rotary maps, on the same tokens. Then a few large
singular values, of Omega or as the data see it, are enough for what is seen, whatever their vectors are. The head's S
counts as one more of their draws (Student's t), p <= 0.01 adjusted over heads: of 20 models without any structure at
most one has such a head. Else the verdict is "neither".

Beside it stand three diagnostics of the raw reading, which reject heads that match nothing (T11). The common rotation
of both sides keeps every score: a head of low rank is sparser than it, whatever its vectors are. Independent rotations
of U and V, the paper's control, forget that the key was chosen for its score. Gaussian tokens say what second moments
alone would give.

Singular values that lie closer than 0.001 sigma_1, or than rounding, are one block, whose vectors are only together
something: its contribution is one term, the sum of its pairs', in shares and counts. Counts follow three published
rules, each in its own convention of biases, on the same decisions (balanced, all on the same terms): the table gives
medians and, in brackets, how often a rule is undefined, which it is too where the terms of its convention miss a score
by 0.001 of the query's largest, or of the median query's where that is larger. Chance needs few vectors too: a small
count alone shows nothing. Rotary positions are maps of the inputs around one decomposition.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> W_Q, W_K, tokens = (np.random.default_rng(0).normal(size=s) for s in ((1, 1, 2, 3), (1, 1, 2, 3), (1, 3, 4, 3)))
>>> found = survey(HeadBundle(W_Q, W_K, attn_in=tokens), Settings(draws=19))
>>> found.verdict.dims, found.contribution.dims  # a sentence a head; a share of each pair, in each reading
(('layer', 'head'), ('layer', 'head', 'reading', 'pair'))
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import xarray as xr

from svtheory.heads.bundles import HeadBundle
from svtheory.heads.read_together import READINGS
from svtheory.instruments import sparser
from svtheory.instruments.labels import Labels, labelled
from svtheory.instruments.sad_figure import caption, figure
from svtheory.instruments.sad_page import COLUMNS, answers, brief, rows, summary
from svtheory.instruments.sad_terms import VARIABLES as TERM_VARIABLES
from svtheory.instruments.sad_terms import terms
from svtheory.instruments.sources import SEQUENCES, Source
from svtheory.reports.options import Options, at_least

__all__ = [
    "COLUMNS",
    "DEFAULTS",
    "VARIABLES",
    "Settings",
    "answers",
    "brief",
    "caption",
    "figure",
    "requested",
    "rows",
    "summary",
    "survey",
]
VARIABLES: Labels = {**sparser.VARIABLES, **TERM_VARIABLES}


@dataclass(frozen=True)
class Settings(Options):
    """What p-values are made with."""

    draws: Annotated[int, at_least(19)] = 2999
    """Random heads behind a p-value, at most."""
    seed: int = 0
    """Seed of the random heads."""


DEFAULTS = Settings()


def requested(source: Source, settings: Settings) -> xr.Dataset:
    """What the command asks for."""
    return survey(source.bundle(reads=True, sequences=SEQUENCES), settings).assign_attrs(bundle=source.label)


def survey(bundle: HeadBundle, settings: Settings = DEFAULTS) -> xr.Dataset:
    """Decompose every head on what it reads, and compare with random heads."""
    tested = sparser.tested(bundle, jax.random.key(settings.seed), settings.draws, len(READINGS))
    return labelled(tested.merge(terms(bundle)).assign_attrs(bundle.metadata), VARIABLES)
