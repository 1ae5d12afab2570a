"""Every false mutant of every theorem is refused, and falsity is shown without the verifier.

By default every sixth mutant of each theorem is tried, the slow tests try all.
"""

from __future__ import annotations

import pytest

from proofs import theorems
from proofs.engine.mutants import mutants

THEOREMS = theorems()
TRUE: dict[tuple[str, str], str] = {}
"""Mutants that are true after all, with the reason."""
of_each_theorem = pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.id)
of_each_step = pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])


def true(theorem, tried):
    return [mutant.name for mutant in tried if (theorem.id, mutant.name) in TRUE]


@of_each_step
@of_each_theorem
def test_every_false_mutant_is_refused(theorem, step):
    tried = list(mutants(theorem))[::step]
    assert [mutant.name for mutant in tried if mutant.refusal(theorem) is None] == true(theorem, tried)


@of_each_step
@of_each_theorem
def test_mutants_are_false_at_exact_values(theorem, step):
    tried = list(mutants(theorem))[::step]
    assert [mutant.name for mutant in tried if not mutant.is_false(theorem)] == true(theorem, tried)


def test_mutants_are_many():
    counts = [len(list(mutants(theorem))) for theorem in THEOREMS]
    assert min(counts) >= 5
    assert sum(counts) >= 700
