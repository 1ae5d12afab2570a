"""False neighbours made by rule: one sign, one factor, one direction, one hypothesis changed at a time.

A mutant is *shown false* without the verifier: by an exact example of the theorem, at which the hypotheses hold and
the mutant does not, or, for a dropped hypothesis, by a counterexample at which all other hypotheses hold and the claim
does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sympy import Add, Eq, Ge, Gt, MatAdd

from proofs.engine.examples import failures, holds
from proofs.engine.lemmas import StepReport
from proofs.engine.statements import conjunction, implies, parts_of, split
from proofs.engine.verifier import Theorem


@dataclass(frozen=True)
class Mutant:
    """A theorem with one thing changed: parts of the claim replaced, or a hypothesis left out."""

    name: str
    claim: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def is_false(self, theorem: Theorem) -> bool:
        """Whether exact values show it false, without any proof."""
        if not self.without:
            return any(failures(self.claim, values) for values in theorem.examples)
        (dropped,) = self.without
        values = next(values for hypothesis, values in theorem.counterexamples.items() if hypothesis.name == dropped)
        return failures(theorem.hypotheses, values) == [dropped] and not all(
            holds(statement, values) for statement in theorem.claim.values()
        )

    def refusal(self, theorem: Theorem) -> StepReport | None:
        """The first step of the proof that does not hold for the mutant, or None if it passes."""
        return theorem.refusal(self.claim, self.without)


def mutants(theorem: Theorem) -> Iterator[Mutant]:
    """Every mutant of a theorem, by part of its claim and then by hypothesis."""
    for part, statement in theorem.claim.items():
        antecedents, consequent = split(statement)
        if antecedents:
            yield Mutant(f"{part}: antecedents dropped", {part: consequent})
        first, *others = parts_of(consequent)
        for kind, changed in _changes(first):
            mutated = conjunction(changed, *others) if others else changed
            yield Mutant(f"{part}: {kind}", {part: implies(antecedents, mutated) if antecedents else mutated})
    for hypothesis in theorem.hypotheses:
        yield Mutant(f"without: {hypothesis}", without=(hypothesis,))


def _changes(relation: Any) -> Iterator[tuple[str, Any]]:
    left, right = relation.args
    if isinstance(relation, Eq):
        if _is_zero(right):
            yield from (("sign", Eq(term, right, evaluate=False)) for term in _last_term_times(left, -1))
            yield from (("factor", Eq(term, right, evaluate=False)) for term in _last_term_times(left, 2))
        else:
            yield "sign", Eq(left, -right, evaluate=False)
            yield "factor", Eq(left, 2 * right, evaluate=False)
    elif isinstance(relation, Ge | Gt):
        yield "direction", relation.func(right, left, evaluate=False)
        signed = (left, -right) if _is_zero(left) else (-left, right)
        yield "sign", relation.func(*signed, evaluate=False)


def _is_zero(side: Any) -> bool:
    return bool(side.is_ZeroMatrix if getattr(side, "is_Matrix", False) else side == 0)


def _last_term_times(sum_of_terms: Any, factor: int) -> list[Any]:
    if not isinstance(sum_of_terms, Add | MatAdd):
        return []
    *terms, last = sum_of_terms.args
    return [sum_of_terms.func(*terms, factor * last)]
