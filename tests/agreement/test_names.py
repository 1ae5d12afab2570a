"""Every theorem names functions that exist, and every experiment theorems that exist."""

from importlib import import_module

import pytest

from proofs import theorems
from proofs.experiments import declared
from sims.__main__ import experiments


@pytest.mark.parametrize("theorem", theorems(), ids=lambda theorem: theorem.id)
def test_functions_exist(theorem):
    assert theorem.functions
    for name in theorem.functions:
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(module), function)), name


def test_experiments_declare_theorems_that_exist():
    assert set(declared()) <= set(experiments())
    assert {name for found in declared().values() for name in found} <= {theorem.id for theorem in theorems()}
