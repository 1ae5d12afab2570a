"""Theorems as data, proofs as chains of steps, and the machine that checks them.

A `Theorem` carries hypotheses and claim as named sympy statements and a function ``proof(claim)`` that builds its
steps *from the claim it is handed*, so that a changed claim gets a changed proof. Hypotheses are never passed to the
proof: the verifier puts those in force into a `Given`, and each step is checked against it, so that a dropped
hypothesis is missed wherever it was used. Every part of the claim must be concluded by a step, or the verification
fails.

Steps:
    - `Identity`: two expressions whose difference has normal form exactly 0, derivatives, limits and integrals carried
      out;
    - `Inequality`: larger - smaller equals a certificate identically, and the certificate is non-negative by its
      structure.

An exception or a step that exceeds its time counts as a failure of that step, never as a proof; a control counts as
rejected only if a residual was left, not if an exception was raised.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sympy import Eq, Ge, Gt, Implies, Le, Lt, MatrixSymbol
from sympy.core.relational import Relational

from proofs.examples import Values, failures
from proofs.given import under
from proofs.notation import parts_of
from proofs.steps import Identity, Inequality, Refused, Step

SECONDS_PER_STEP = 20
STATUSES = ("proved", "limit", "cited", "definition")


class Claim(Mapping[str, Any]):
    """The named parts of a claim, with `conclude` to turn a part into the step that establishes it."""

    def __init__(self, parts: Mapping[str, Any]):
        self._parts = dict(parts)

    def __getitem__(self, part: str) -> Any:
        return self._parts[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def changed(self, parts: Mapping[str, Any]) -> Claim:
        """The claim with some parts replaced."""
        return Claim({**self._parts, **parts})

    def conclude(
        self,
        part: str,
        name: str,
        replace: Mapping[Any, Any] | None = None,
        certificate: Any = None,
        lemmas: tuple[Any, ...] = (),
    ) -> list[Step]:
        """The steps that say exactly what the part says: the consequent under its antecedents.

        Args:
            part: name of the part of the claim.
            name: what the step does, for people.
            replace: symbols written out (a defined quantity by its definition) before checking.
            certificate: for an inequality, an expression equal to larger - smaller whose sign shows.
            lemmas: steps checked under what precedes them, whose formulas are then used.
        """
        assuming, statement = (), self[part]
        if isinstance(statement, Implies):
            assuming, statement = parts_of(statement.args[0]), statement.args[1]
        rules = dict(replace or {})
        assuming = tuple(_written_out(relation, rules) for relation in assuming)
        steps: list[Step] = []
        for relation in parts_of(statement):
            relation = _written_out(relation, rules)
            if isinstance(relation, Eq):
                steps.append(Identity(name, relation.lhs, relation.rhs, part, assuming, lemmas))
            elif isinstance(relation, Ge | Gt | Le | Lt):
                if certificate is None:
                    raise TypeError(f"part {part!r} is an inequality: it needs a certificate")
                strict = isinstance(relation, Gt | Lt)
                steps.append(Inequality(name, relation.gts, relation.lts, certificate, part, assuming, lemmas, strict))
            else:
                raise TypeError(f"part {part!r} is neither an equation nor an inequality: {relation}")
        return steps


def _written_out(relation: Any, rules: dict[Any, Any]) -> Any:
    """A relation with symbols replaced on either side, and not simplified."""
    if not isinstance(relation, Relational):
        return relation
    return relation.func(*(side.xreplace(rules) for side in relation.args), evaluate=False)


@dataclass(frozen=True)
class Control:
    """A neighbouring false statement, run through the same proof, which must refuse it.

    Args:
        name: what was changed.
        claim: parts of the claim put in place of the theorem's own (or added).
        without: names of hypotheses dropped.
    """

    name: str
    claim: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """Whether one step held; if not, the residual that it left or the error that it raised."""

    name: str
    ok: bool
    proves: str = ""
    residual: str = ""
    error: str = ""


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


@dataclass(frozen=True)
class Theorem:
    """A statement with its proof.

    Args:
        id: "T1" to "T17".
        title: a few words.
        statement: prose that a reader can follow, in the symbols of the project.
        hypotheses: named sympy statements in force during the proof.
        claim: named sympy statements to be proved.
        proof: builds the steps from the claim it is given.
        controls: at least two false neighbours.
        scope: "general D", or the sizes at which it was checked in exact arithmetic.
        status: "proved", "limit" (a limit taken symbolically), "cited" or "definition".
        functions: dotted names of the svtheory functions that compute it.
        experiment: the experiment in sims that tests it.
        examples: exact values at which all hypotheses and the claim hold (so the hypotheses do not contradict one
            another).
        counterexamples: for a hypothesis by name, exact values at which it alone fails, and the claim with it.
        references: where it comes from.
    """

    id: str
    title: str
    statement: str
    hypotheses: Mapping[str, Any]
    claim: Mapping[str, Any]
    proof: Callable[[Claim], Iterable[Step]]
    controls: tuple[Control, ...]
    scope: str
    status: str
    functions: tuple[str, ...]
    experiment: str
    examples: tuple[Values, ...] = ()
    counterexamples: Mapping[str, Values] = field(default_factory=dict)
    references: tuple[str, ...] = ()

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"status of {self.id} is {self.status!r}, not one of {STATUSES}")
        stated = [*self.hypotheses.values(), *self.claim.values()]
        shapes = {(symbol.name, symbol.shape) for part in stated for symbol in part.atoms(MatrixSymbol)}
        if len(shapes) > len({name for name, _ in shapes}):
            raise ValueError(f"{self.id} gives one name to matrices of different shapes: {sorted(map(str, shapes))}")

    def checks(self, claim: Mapping[str, Any] | None = None, without: Iterable[str] = ()) -> Iterator[StepReport]:
        """Check the proof of a claim (the theorem's own unless given) step by step, with some hypotheses dropped."""
        dropped = set(without)
        if dropped - set(self.hypotheses):
            raise ValueError(f"{self.id} has no hypotheses {sorted(dropped - set(self.hypotheses))}")
        stated = Claim(self.claim if claim is None else claim)
        facts = tuple(value for name, value in self.hypotheses.items() if name not in dropped)
        try:
            steps = list(self.proof(stated))
        except Exception as error:
            yield StepReport("building the proof", False, error=f"{type(error).__name__}: {error}")
            return
        yield from (_checked(step, facts) for step in steps)
        for part in stated:
            if part not in {step.proves for step in steps}:
                yield StepReport(f"conclude {part}", False, part, "no step concludes this part")

    def steps(self, claim: Mapping[str, Any] | None = None, without: Iterable[str] = ()) -> list[StepReport]:
        """Every check of `checks`."""
        return list(self.checks(claim, without))

    def refusal(self, claim: Mapping[str, Any], without: Iterable[str] = ()) -> StepReport | None:
        """The first step of the proof that does not hold with parts of the claim changed, or None if all hold."""
        changed = Claim(self.claim).changed(claim)
        return next((report for report in self.checks(changed, without) if not report.ok), None)

    def control(self, control: Control) -> ControlReport:
        """Run a false statement through the proof; it counts as rejected if a residual is left, not if a step fails."""
        refusal = self.refusal(control.claim, control.without)
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


@lru_cache(maxsize=4096)
def _checked(step: Step, facts: tuple[Any, ...]) -> StepReport:
    """Check one step; most steps of a changed claim are those of the theorem itself, and are checked once."""
    try:
        with _limited(SECONDS_PER_STEP):
            step.check(under(facts))
    except Refused as refusal:
        return StepReport(step.name, False, step.proves, residual=str(refusal))
    except Exception as error:
        return StepReport(step.name, False, step.proves, error=f"{type(error).__name__}: {error}")
    return StepReport(step.name, True, step.proves)


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds of computing, where the platform can."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_):
        raise TimeoutError(f"a step took longer than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


__all__ = [
    "Claim",
    "Control",
    "ControlReport",
    "Identity",
    "Inequality",
    "Refused",
    "Report",
    "Step",
    "StepReport",
    "Theorem",
]
