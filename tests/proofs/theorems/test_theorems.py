"""Every theorem is complete, and says what it needs, what it predicts and why."""

import pytest

from proofs import theorems
from proofs.engine.verifier import Lemma

THEOREMS = theorems()


@pytest.mark.parametrize("found", THEOREMS, ids=lambda found: found.id)
def test_theorems_are_complete(found):
    assert len(found.controls) >= 2
    assert len(found.lemmas) >= 3
    assert set(found.counterexamples) == set(found.assumed)
    assert found.examples
    assert found.scope
    assert found.statement.rstrip().endswith((".", ":"))
    assert found.predicts.endswith(".")
    assert found.why
    assert all(part.why for part in found.lemmas if isinstance(part, Lemma))


def test_theorems_stand_in_order():
    """T18 to T24 are stated in the theory, and proved as they are built."""
    numbers = [int(found.id.removeprefix("T")) for found in THEOREMS]
    assert numbers[:17] == list(range(1, 18))
    assert numbers == sorted(set(numbers))
