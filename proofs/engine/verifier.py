"""Theorems as data, and the machine that checks them.

A `Theorem` is a list of parts, each a `Definition`, a `Lemma` or a lemma `Cited` from another theorem. Verifying it
checks each lemma under its own hypotheses, each exact example, and that every control, a false neighbour, is refused:
a control counts as rejected only if a residual was left, not if an exception was raised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sympy import MatrixSymbol
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanFunction

from proofs.engine.examples import Values, failures
from proofs.engine.lemmas import Cited, Definition, Hypothesis, Lemma, Part, Proof, StepReport, pseudo_inverse
from proofs.engine.statements import with_right

STATUSES = ("proved", "limit", "cited", "definition")


@dataclass(frozen=True, eq=False)
class Control:
    """A neighbouring false statement, run through the same proof, which must refuse it.

    Args:
        name: what was changed.
        of: name of a part, or a hypothesis, which is dropped.
        put: what is put in place of the part: a statement, or another right-hand side.
    """

    name: str
    of: str | Hypothesis
    put: Any = None


@dataclass(frozen=True)
class ControlReport:
    """Whether a false statement was refused, by which step, and with what left over."""

    name: str
    rejected: bool
    step: str = ""
    residual: str = ""


@dataclass(frozen=True)
class Report:
    """What verification found: `ok` iff every step held and every control was rejected."""

    theorem: Theorem
    steps: tuple[StepReport, ...]
    controls: tuple[ControlReport, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the theorem stands."""
        return bool(self.steps) and all(s.ok for s in self.steps) and all(c.rejected for c in self.controls)


@dataclass(frozen=True, eq=False)
class Theorem:
    """A statement with its proof.

    Args:
        text: the docstring of its module: "T1. Title.", what it states, "Predicts: ...", "Why: ...".
        lemmas: its parts, in the order of the proof.
        controls: at least two false neighbours.
        scope: "general D", or the sizes at which it was checked in exact arithmetic.
        status: "proved", "limit" (a limit taken symbolically), "cited" or "definition".
        functions: dotted names of the svtheory functions that compute it.
        examples: exact values at which all hypotheses and the claim hold (so the hypotheses do not contradict one
            another).
        counterexamples: for each hypothesis, exact values at which it alone fails, and the claim with it.
        references: where it comes from.
    """

    text: str | None
    lemmas: Sequence[Part]
    controls: Sequence[Control]
    scope: str
    status: str
    functions: Sequence[str]
    examples: Sequence[Values] = ()
    counterexamples: Mapping[Hypothesis, Values] = field(default_factory=dict)
    references: Sequence[str] = ()

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"status of {self.id} is {self.status!r}, not one of {STATUSES}")
        seen: set[str] = set()
        for part in self.lemmas:
            if part.name in seen or not {*part.where, *part.uses} <= seen:
                raise ValueError(f"{self.id}: {part.name!r} occurs twice, or needs a part that is not before it")
            seen.add(part.name)
        lost = {control.of for control in self.controls if isinstance(control.of, str)} - seen
        lost |= {part.name for part in self.lemmas if isinstance(part, Definition)}.difference(
            *(part.where for part in self.lemmas)
        )
        if lost or len(self.hypotheses) < len(self.assumed):
            raise ValueError(f"{self.id}: controls of no part, definitions without lemmas, or one name twice: {lost}")
        stated = [*self.hypotheses.values(), *self.claim.values()]
        shapes = {(symbol.name, symbol.shape) for part in stated for symbol in part.atoms(MatrixSymbol)}
        if len(shapes) > len({name for name, _ in shapes}):
            raise ValueError(f"{self.id} gives one name to matrices of different shapes: {sorted(map(str, shapes))}")

    @cached_property
    def _sections(self) -> list[str]:
        return [part.strip() for part in re.split(r"\n\n(?:Predicts|Why): ", self.text or "")]

    @property
    def id(self) -> str:
        """Its number, as in "T1"."""
        return self._sections[0].partition(".")[0]

    @property
    def title(self) -> str:
        """A few words."""
        return self._sections[0].partition("\n\n")[0].partition(". ")[2].rstrip(".")

    @property
    def statement(self) -> str:
        """What it says, in prose with formulas as Sphinx reads them."""
        return self._sections[0].partition("\n\n")[2]

    @property
    def predicts(self) -> str:
        """What follows from it, in a number or a formula."""
        return self._sections[1]

    @property
    def why(self) -> str:
        """Why it holds."""
        return self._sections[2]

    @cached_property
    def claim(self) -> dict[str, Any]:
        """The statement of every part, by name."""
        return {part.name: part.statement for part in self.lemmas}

    @cached_property
    def assumed(self) -> tuple[Hypothesis, ...]:
        """Every hypothesis that a part needs, in order of need."""
        return tuple({hypothesis: None for part in self.lemmas for hypothesis in part.given})

    @cached_property
    def hypotheses(self) -> dict[str, Any]:
        """The statement of every hypothesis, by name."""
        return {hypothesis.name: hypothesis.statement for hypothesis in self.assumed}

    def grounds(self, name: str) -> tuple[Hypothesis | Definition, ...]:
        """The hypotheses and definitions on which a part rests, those of the parts that it uses included."""
        parts = {part.name: part for part in self.lemmas}
        found, todo = {}, [name]
        while todo:
            part = parts[todo.pop()]
            found.update(dict.fromkeys((*part.given, *(parts[where] for where in part.where))))
            todo += [*part.uses, *part.where]
        return tuple(found)

    @cached_property
    def verified(self) -> dict[str, bool]:
        """Whether each part held, as it is stated, under all hypotheses: from here other theorems may cite it."""
        proof = Proof(self.claim)
        list(self._checks(proof))
        return proof.held

    def _checks(self, proof: Proof, only: Iterable[Part] | None = None) -> Iterator[StepReport]:
        for part in self.lemmas if only is None else only:
            proof.held[part.name] = True
            for report in part.checks(proof):
                proof.held[part.name] &= report.ok
                yield report

    def steps(self, claim: Mapping[str, Any] | None = None, without: Iterable[str] = ()) -> list[StepReport]:
        """Every step of the proof, checked, with parts of the claim replaced and some hypotheses dropped."""
        return list(self._checks(self._proof(claim or {}, without)))

    def _proof(self, claim: Mapping[str, Any], without: Iterable[str]) -> Proof:
        unknown = (set(claim) - set(self.claim)) | (set(without) - set(self.hypotheses))
        if unknown:
            raise ValueError(f"{self.id} has no parts or hypotheses {sorted(unknown)}")
        return Proof({**self.claim, **claim}, frozenset(without))

    def refusal(self, claim: Mapping[str, Any], without: Iterable[str] = ()) -> StepReport | None:
        """The first step that does not hold with parts of the claim changed, or None if all hold.

        Only the parts that the change reaches are checked again.
        """
        proof, reached = self._proof(claim, without), set(claim)
        proof.held.update(self.verified)
        for part in self.lemmas:
            if reached & {*part.where, *part.uses} or proof.without & {hypothesis.name for hypothesis in part.given}:
                reached.add(part.name)
        checked = self._checks(proof, [part for part in self.lemmas if part.name in reached])
        return next((report for report in checked if not report.ok), None)

    def control(self, control: Control) -> ControlReport:
        """Run a false statement through the proof; it counts as rejected if a residual is left, not if a step fails."""
        if isinstance(control.of, Hypothesis):
            refusal = self.refusal({}, (control.of.name,))
        else:
            put = control.put
            if not isinstance(put, BooleanFunction | Relational):
                put = with_right(self.claim[control.of], put)
            refusal = self.refusal({control.of: put})
        if refusal is None or refusal.error:
            return ControlReport(control.name, False, residual=refusal.error if refusal else "")
        return ControlReport(control.name, True, refusal.name, refusal.residual)

    def verify(self) -> Report:
        """Check every step and every control."""
        start = time.perf_counter()
        steps = (*self.steps(), *map(self._consistent, range(len(self.examples))))
        controls = tuple(self.control(control) for control in self.controls)
        return Report(self, steps, controls, time.perf_counter() - start)

    def _consistent(self, number: int) -> StepReport:
        false = failures({**self.hypotheses, **self.claim}, self.examples[number])
        return StepReport(
            f"hypotheses and claim hold at exact example {number + 1}", not false, residual=", ".join(false)
        )

    def cite(
        self, part: str, at: Mapping[Any, Any], given: Sequence[Hypothesis] = (), where: Sequence[str] = ()
    ) -> Cited:
        """A lemma of this theorem as a part of another, at other symbols."""
        return Cited(self, part, at, given, where)


__all__ = [
    "Control",
    "ControlReport",
    "Definition",
    "Hypothesis",
    "Lemma",
    "Report",
    "StepReport",
    "Theorem",
    "pseudo_inverse",
]
