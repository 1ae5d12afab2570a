"""What a theorem is made of: hypotheses, definitions, lemmas, and lemmas of other theorems.

A `Lemma` is one object with its statement, the reason, the hypotheses it needs and how it is checked. Nothing in it is
proved ahead: `Lemma.checks` builds the steps from the statement at hand, so that a changed statement gets a changed
proof, and checks them under the hypotheses in force, so that a dropped one is missed wherever it was needed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from sympy import Abs, Eq, Ge, Gt, Integral, Limit, Ne, S

from proofs.engine.examples import value
from proofs.engine.given import carried_out, under
from proofs.engine.statements import conjunction, parts_of, penrose, split, written_out
from proofs.engine.steps import Identity, Inequality, Refused, Step

if TYPE_CHECKING:
    from proofs.engine.verifier import Theorem

SECONDS_PER_STEP = 20
ASSUMED = ("is_integer", "is_real", "is_nonzero", "is_nonnegative", "is_positive")


@dataclass(frozen=True)
class StepReport:
    """Whether one step held; if not, the residual that it left or the error that it raised."""

    name: str
    ok: bool
    proves: str = ""
    residual: str = ""
    error: str = ""


class Hypothesis:
    """Relations assumed together, under one name."""

    def __init__(self, name: str, *relations: Any):
        self.name, self.statement = name, conjunction(*relations)

    def __repr__(self) -> str:
        return f"Hypothesis({self.name!r})"


def pseudo_inverse(matrix: Any) -> Hypothesis:
    """The hypothesis that gives ``X^+`` its meaning."""
    return Hypothesis(f"{matrix}^+ is the pseudo-inverse of {matrix}", penrose(matrix))


@dataclass(frozen=True)
class Proof:
    """One run of the proof of a theorem.

    Args:
        claim: the statement of every part, changed ones among them.
        without: names of the hypotheses dropped.
        held: whether each part checked so far has held.
    """

    claim: Mapping[str, Any]
    without: frozenset[str] = frozenset()
    held: dict[str, bool] = field(default_factory=dict)

    def facts(self, given: Sequence[Hypothesis]) -> tuple[Any, ...]:
        """The statements of the hypotheses that are in force."""
        return tuple(hypothesis.statement for hypothesis in given if hypothesis.name not in self.without)

    def defined(self, names: Sequence[str]) -> dict[Any, Any]:
        """The symbols that definitions introduce, with what they stand for in this run."""
        return {self.claim[name].lhs: self.claim[name].rhs for name in names}


@dataclass(frozen=True, eq=False)
class Definition:
    """A symbol for an expression, ``equal(symbol, expression)``; the lemmas `where` it is written out bear it out."""

    name: str
    statement: Any
    given: Sequence[Hypothesis] = ()
    where: Sequence[str] = ()
    uses: Sequence[str] = ()

    def checks(self, proof: Proof) -> Iterator[StepReport]:
        """None: a definition needs no proof."""
        return iter(())


@dataclass(frozen=True, eq=False)
class Lemma:
    """A statement and its proof in one step.

    Args:
        name: what it says, in a few words.
        statement: an equation, an inequality, several of these, or one of these under antecedents.
        why: the reason, in one sentence.
        given: the hypotheses that it needs.
        where: names of definitions, whose symbols are written out before checking.
        uses: names of earlier parts of the theorem, whose statements are in force.
        certificate: for an inequality, an expression equal to larger - smaller whose sign shows; none where it shows as
            it stands, or in exact numbers.
        rules: expressions replaced on either side, once integrals and limits are carried out.
    """

    name: str
    statement: Any
    why: str
    given: Sequence[Hypothesis] = ()
    where: Sequence[str] = ()
    uses: Sequence[str] = ()
    certificate: Any = None
    rules: Mapping[Any, Any] = field(default_factory=dict)

    def checks(self, proof: Proof) -> Iterator[StepReport]:
        """Whether each relation of the statement at hand follows from what the lemma is given and uses."""
        for name in self.uses:
            if not proof.held[name]:
                yield StepReport(self.why, False, self.name, f"rests on {name!r}, which does not hold")
                return
        defined = proof.defined(self.where)
        facts = (*proof.facts(self.given), *(written_out(proof.claim[name], defined) for name in self.uses))
        antecedents, consequent = split(written_out(proof.claim[self.name], defined))
        for relation in parts_of(consequent):
            yield _reported(self.name, self.why, lambda rel=relation: self._check(rel, antecedents, facts))

    def _check(self, relation: Any, antecedents: tuple[Any, ...], facts: tuple[Any, ...]) -> None:
        if rest := _verdict(_step(self.why, relation, antecedents, self.certificate, self.rules), facts):
            raise Refused(rest)


@dataclass(frozen=True, eq=False)
class Cited:
    """A lemma of another theorem, for other symbols: it holds if that theorem is verified and its hypotheses hold here.

    Args:
        theorem: where it is proved.
        part: which of its lemmas.
        at: what stands for its symbols here.
        given, where: as for `Lemma`; from these its own hypotheses and definitions have to follow.
    """

    theorem: Theorem
    part: str
    at: Mapping[Any, Any]
    given: Sequence[Hypothesis] = ()
    where: Sequence[str] = ()
    uses: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The theorem and the lemma, as in "T3: Kantorovich", with what stands for the first symbol."""
        first = next(iter(self.at.items()), None)
        return f"{self.theorem.id}: {self.part}" + (f", {first[0]} = {first[1]}" if first else "")

    @cached_property
    def statement(self) -> Any:
        """The lemma's statement for the symbols here."""
        return written_out(self.theorem.claim[self.part], self.at)

    def checks(self, proof: Proof) -> Iterator[StepReport]:
        """Whether the lemma is verified as it is stated there, and all that it rests on follows here."""
        yield _reported(self.name, f"by {self.theorem.id}", lambda: self._check(proof))

    def _check(self, proof: Proof) -> None:
        if proof.claim[self.name] != self.statement:
            raise Refused(f"{self.theorem.id} says {self.statement}")
        if not self.theorem.verified[self.part]:
            raise Refused(f"{self.part!r} of {self.theorem.id} is not verified")
        for symbol, stands_for_it in self.at.items():
            if any(getattr(symbol, sign, False) and not getattr(stands_for_it, sign) for sign in ASSUMED):
                raise Refused(f"{stands_for_it} is not known to be what {self.theorem.id} assumes of {symbol}")
        facts, defined = proof.facts(self.given), proof.defined(self.where)
        for ground in self.theorem.grounds(self.part):
            for relation in parts_of(written_out(written_out(ground.statement, self.at), defined)):
                if rest := _verdict(_step(ground.name, relation), facts):
                    raise Refused(f"{ground.name!r} of {self.theorem.id} does not follow: {rest}")


Part = Definition | Lemma | Cited


def _step(
    name: str, relation: Any, assuming: tuple[Any, ...] = (), certificate: Any = None, rules: Mapping[Any, Any] = {}
) -> Step:
    """The step that a relation follows by: nothing is left of the difference, or its sign shows in the certificate."""
    if relation.func not in (Eq, Ne, Ge, Gt):
        raise TypeError(f"neither an equation nor an inequality: {relation}")
    left, right = relation.args
    if relation.func is Eq:
        return Identity(name, _carried_out(left, rules), _carried_out(right, rules), assuming)
    if relation.func is Ne:
        left, right = Abs(left - right), S.Zero
    if certificate is None:
        certificate = left - right if relation.free_symbols else value(left - right, {})
    return Inequality(name, left, right, certificate, assuming, strict=relation.func in (Gt, Ne))


def _carried_out(side: Any, rules: Mapping[Any, Any]) -> Any:
    side = side.xreplace(rules)
    nodes = side.atoms(Integral, Limit)
    return side.xreplace({node: carried_out(node) for node in nodes}).xreplace(rules) if nodes else side


@lru_cache(maxsize=8192)
def _verdict(step: Step, facts: tuple[Any, ...]) -> str:
    """What a step leaves, "" if it holds; most steps of a changed claim are the theorem's own, and are checked once."""
    try:
        step.check(under(facts))
    except Refused as refusal:
        return str(refusal)
    return ""


def _reported(part: str, name: str, check: Callable[[], None]) -> StepReport:
    """The report of a check; an error, or a check without end, is a failure and no refusal."""
    try:
        with _limited(SECONDS_PER_STEP):
            check()
    except Refused as refusal:
        return StepReport(name, False, part, residual=str(refusal))
    except Exception as error:
        return StepReport(name, False, part, error=f"{type(error).__name__}: {error}")
    return StepReport(name, True, part)


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
