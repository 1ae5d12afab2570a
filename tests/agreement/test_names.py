"""Every theorem names functions that exist and is tested by an experiment; experiments name theorems that exist."""

from importlib import import_module

import pytest

from proofs import theorems
from proofs.experiments import declared
from sims.__main__ import experiments

PROVED = {theorem.id: theorem for theorem in theorems()}
# they say what theory predicts of what they are given, and hold nothing to it; `share` is about accuracy, `writers`
# about traces
SILENT = {"conditions", "heads", "share", "writers"}


@pytest.mark.parametrize("name", PROVED)
def test_functions_exist(name):
    assert PROVED[name].functions
    for function in PROVED[name].functions:
        module, _, attribute = function.rpartition(".")
        assert callable(getattr(import_module(module), attribute)), function


@pytest.mark.parametrize("experiment", experiments())
def test_an_experiment_declares_the_theorems_it_tests(experiment):
    named = declared()[experiment]
    assert (named == ()) == (experiment in SILENT)
    assert len(set(named)) == len(named)
    assert set(named) <= set(PROVED)


@pytest.mark.parametrize("name", PROVED)
def test_a_theorem_is_tested(name):
    assert any(name in named for named in declared().values())
