"""Every theorem names functions and an experiment that exist."""

from importlib import import_module

import pytest

from proofs import theorems
from sims.__main__ import experiments


@pytest.mark.parametrize("theorem", theorems(), ids=lambda theorem: theorem.id)
def test_functions_and_experiment_exist(theorem):
    assert theorem.functions
    for name in theorem.functions:
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(module), function)), name
    assert theorem.experiment in experiments()
