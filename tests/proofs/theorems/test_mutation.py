"""Every false mutant of every theorem is refused, and falsity is shown without the verifier."""

from __future__ import annotations

import pytest

from proofs import theorems
from proofs.engine.mutants import mutants

THEOREMS = theorems()
TRUE: dict[tuple[str, str], str] = {}
"""Mutants that are true after all, with the reason."""


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.id)
def test_every_false_mutant_is_refused(theorem):
    found = list(mutants(theorem))
    assert len(found) >= 5
    passed = [mutant.name for mutant in found if mutant.refusal(theorem) is None]
    assert passed == [name for id, name in TRUE if id == theorem.id]


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.id)
def test_mutants_are_false_at_exact_values(theorem):
    not_shown = [mutant.name for mutant in mutants(theorem) if not mutant.is_false(theorem)]
    assert not_shown == [name for id, name in TRUE if id == theorem.id]


def test_mutants_are_many():
    assert sum(len(list(mutants(theorem))) for theorem in THEOREMS) >= 700
