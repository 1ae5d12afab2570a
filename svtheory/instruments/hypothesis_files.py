"""Hypothesis files: hypotheses that a user gives as arrays, .npz or .safetensors.

template.NAME     a hypothesis: the logit asked for between each query and key feature, N x M; or a family of P
such templates, P x N x M, of which the head may choose the best
member.NAME       what to call the members of a family, P numbers; 0, 1, ... where it is left out
query_features    values of candidate features at the queries, n x N; or query_features.NAME for one hypothesis
key_features      at the keys, n' x M; or key_features.NAME
query_inputs      what W_Q reads at these queries, one a row, n x D; left out: attn_in of the bundle at --queries,
key_inputs        and W_K at keys, n' x D; at --keys, sequence after sequence
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from svtheory.checks import InputError
from svtheory.heads.hypotheses import Hypothesis
from svtheory.instruments.arrays import read_arrays

INPUTS = ("query_inputs", "key_inputs")
Inputs = tuple[np.ndarray, np.ndarray]


def read_hypotheses(path: Path) -> tuple[list[Hypothesis], Inputs | None]:
    """The hypotheses of a file, and its inputs where it has any; raises InputError for what is no such file."""
    arrays = {name: x.astype(np.float32) for name, x in read_arrays(path, ()).items()}
    names = [name.removeprefix("template.") for name in arrays if name.startswith("template.")]
    if not names:
        raise InputError(f"FILE must hold a hypothesis, template.NAME, got only {', '.join(arrays)}")
    if (INPUTS[0] in arrays) != (INPUTS[1] in arrays):
        raise InputError(f"FILE must hold {' and '.join(INPUTS)}, or neither, got one of them")
    inputs = (arrays[INPUTS[0]], arrays[INPUTS[1]]) if INPUTS[0] in arrays else None
    return [_hypothesis(arrays, name) for name in names], inputs


def _hypothesis(arrays: Mapping[str, np.ndarray], name: str) -> Hypothesis:
    def features(common):
        own = f"{common}.{name}"
        if own not in arrays and common not in arrays:
            raise InputError(f"FILE must hold {common} or {own}, got one without")
        return arrays[own] if own in arrays else arrays[common]

    template, members = arrays[f"template.{name}"], arrays.get(f"member.{name}")
    return Hypothesis(name, features("query_features"), features("key_features"), template, members)
