"""Instruments: what is read of the heads of a real model, a bundle in, a labelled dataset out.

An instrument is one module here, named as its command, with `survey(bundle, ...) -> xarray.Dataset`, `answers(dataset)`
in sentences, `rows(dataset)`, `brief(dataset)` for a terminal, `summary(dataset)` and `figure(dataset)`: all that is
shown is drawn from the dataset alone. Its `Settings` are the options of its command, and `requested(source, settings)`
is what the command surveys. What instruments share stands
beside them: `survey` runs one compiled reading over all heads of a bundle, labels what it finds and corrects p-values
for their number; `sources` says what a bundle or a model is called; `sparser` tests which heads need fewer singular
vectors than chance would.

>>> import numpy as np
>>> from svtheory import HeadBundle
>>> from svtheory.instruments import spectra
>>> W_Q, W_K = np.random.default_rng(0).normal(size=(2, 1, 2, 4, 8))  # 1 layer, 2 heads, d_head 4, d_model 8
>>> found = spectra.survey(HeadBundle(W_Q, W_K))
>>> found.singular_value.sizes["pair"]
4
"""

import ast
from pathlib import Path

import lazy_loader

INSTRUMENTS = (
    "spectra",
    "readout",
    "trace",
    "cause",
    "page",
    "sad",
    "explain",
    "align",
    "pairs",
    "conditions",
    "emergence",
)
"""The instruments, in the order in which a head is got to know."""


def first_line(path: Path) -> str:
    """What a module does: the first line of its docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=set(INSTRUMENTS))
