"""The machine refuses what it should: gaps, false certificates, unproved parts, errors, steps without end."""

from dataclasses import dataclass, replace

import pytest
from sympy import Integral, Limit, exp, oo, symbols

import proofs.verifier
from proofs import theorems
from proofs.given import Given
from proofs.notation import D, N, SquaredNorm, at_least, columns, equal, implies, matrices, more_than, penrose, pinv
from proofs.steps import Identity, Inequality, Refused
from proofs.verifier import Claim, Control, Theorem

a, b, c, x = symbols("a b c x", real=True)
X = matrices("X", D, N)
u, v = columns("u v", D)


def theorem(**changes) -> Theorem:
    """``a = b`` from ``a = c`` and ``c = b``."""
    parts = {
        "id": "T0",
        "title": "Equality is transitive",
        "statement": "If a = c and c = b then a = b.",
        "hypotheses": {"a = c": equal(a, c), "c = b": equal(c, b)},
        "claim": {"a = b": equal(a, b)},
        "proof": lambda claim: claim.conclude("a = b", "through c"),
        "controls": (Control("a = -b", {"a = b": equal(a, -b)}), Control("c is free", without=("a = c",))),
        "scope": "numbers",
        "status": "proved",
        "functions": (),
        "experiment": "none",
        "examples": ({a: 2, b: 2, c: 2},),
    }
    return Theorem(**{**parts, **changes})


def test_a_sound_theorem_passes():
    report = theorem().verify()
    assert report.ok
    assert [control.rejected for control in report.controls] == [True, True]
    assert all(control.residual for control in report.controls)


def test_a_control_that_is_true_is_not_rejected():
    report = theorem(controls=(Control("the claim itself"),)).verify()
    assert not report.ok
    assert not report.controls[0].rejected


def test_a_control_is_not_rejected_by_an_error():
    broken = Control("not a statement of the proof", {"a = b": a})
    assert not theorem().control(broken).rejected


def test_every_part_must_be_concluded():
    (step,) = [report for report in theorem(proof=lambda _: []).verify().steps if not report.ok]
    assert step.residual == "no step concludes this part"


def test_an_error_while_building_the_proof_is_a_failure():
    (step,) = theorem(proof=lambda claim: claim.conclude("b = a", "no such part")).steps()
    assert not step.ok
    assert "KeyError" in step.error


def test_examples_must_satisfy_hypotheses_and_claim():
    assert not theorem(examples=({a: 1, b: 1, c: 2},)).verify().ok


def test_contradictory_hypotheses_prove_nothing_about_matrices():
    def proof(claim):
        return claim.conclude("X = 0", "from nonsense")

    nonsense = {"one": equal(X, 0), "two": equal(X.T * X, 1)}
    (step,) = theorem(hypotheses=nonsense, claim={"X = 0": equal(X, 0)}, proof=proof, controls=()).steps()
    assert not step.ok
    assert "contradict" in step.error


def test_a_step_without_end_is_stopped(monkeypatch):
    @dataclass(frozen=True)
    class Endless:
        name: str = "endless"
        proves: str = "a = b"

        def check(self, given):
            while True:
                pass

    monkeypatch.setattr(proofs.verifier, "SECONDS_PER_STEP", 1)
    (step,) = theorem(proof=lambda _: [Endless()]).steps()
    assert not step.ok
    assert "TimeoutError" in step.error


def test_unknown_hypotheses_and_statuses_are_named():
    with pytest.raises(ValueError, match="no hypotheses"):
        theorem().steps(without=("b = d",))
    with pytest.raises(ValueError, match="status"):
        theorem(status="obvious")
    with pytest.raises(ValueError, match="shapes"):
        theorem(claim={"sizes": equal(matrices("A", D, N) * matrices("A", N, D), 1)})


@pytest.mark.parametrize(
    "step",
    [
        Identity("a false sum", (a + b) ** 2, a**2 + b**2),
        Identity("one-sided", pinv(X) * X * pinv(X), X.T),
        Identity("a denominator", b / (a * b), 1 / a),
        Inequality("a certificate of no sign", a, b, a - b),
        Inequality("another certificate", a**2 + b**2, 2 * a * b, (a + b) ** 2),
        Inequality("not strict", a**2, 0 * a, a**2, strict=True),
        Inequality("an interval turned round", a, 0 * a, Integral(1 + 0 * x, (x, 0, a))),
    ],
)
def test_refused(step):
    with pytest.raises(Refused):
        step.check(Given())


@pytest.mark.parametrize(
    ("step", "hypotheses"),
    [
        (Identity("a denominator", b / (a * b), 1 / a), [more_than(a, 0), more_than(b, 0)]),
        (Identity("antecedents", a**2, b**2, assuming=(equal(a, b),)), []),
        (Inequality("a square", a**2 + b**2, 2 * a * b, (a - b) ** 2), []),
        (
            Inequality(
                "norms",
                SquaredNorm(u) + SquaredNorm(v),
                2 * SquaredNorm(v) - 2 * SquaredNorm(v),
                SquaredNorm(u) + SquaredNorm(v),
            ),
            [],
        ),
        (Inequality("declared", a, b, a - b), [at_least(a, b)]),
        (Inequality("an integral", a, 0 * a, Integral(1 + 0 * x, (x, 0, a))), [at_least(a, 0)]),
    ],
)
def test_accepted(step, hypotheses):
    step.check(Given(hypotheses))


def test_lemmas_are_proved_before_they_are_used():
    true, false = Identity("true", a, b), Identity("false", a, 2 * b)
    given = Given([equal(a, b)])
    Identity("uses a lemma", a**2, b**2, lemmas=(true,)).check(given)
    with pytest.raises(Refused):
        Identity("uses what is false", a, 3 * b, lemmas=(false,)).check(given)


def test_conclude_says_what_the_part_says():
    claim = Claim({"equal": implies(equal(a, b), equal(a, c)), "larger": at_least(a, b)})
    (step,) = claim.conclude("equal", "name", {c: b})
    assert (step.left, step.right, step.assuming) == (a, b, (equal(a, b),))
    (step,) = claim.conclude("larger", "name", certificate=a - b)
    assert (step.larger, step.smaller, step.strict) == (a, b, False)
    with pytest.raises(TypeError, match="certificate"):
        claim.conclude("larger", "name")
    with pytest.raises(TypeError, match="neither"):
        Claim({"neither": a}).conclude("neither", "name")


def test_a_dropped_hypothesis_is_missed():
    def proof(claim):
        return claim.conclude("projection", "Penrose")

    fact = {"projection": equal(X * pinv(X) * X, X)}
    projection = theorem(hypotheses={"X^+": penrose(X)}, claim=fact, proof=proof, controls=())
    assert [step.ok for step in projection.steps()] == [True]
    assert [step.ok for step in projection.steps(without=("X^+",))] == [False]


@pytest.mark.parametrize("found", theorems(), ids=lambda found: found.id)
def test_theorems_are_complete(found):
    assert len(found.controls) >= 2
    assert len(list(found.proof(Claim(found.claim)))) >= 3
    assert set(found.counterexamples) == set(found.hypotheses)
    assert found.examples
    assert found.scope
    assert found.statement.endswith(".")


def test_theorems_are_numbered_without_gaps():
    assert [found.id for found in theorems()] == [f"T{number}" for number in range(1, 18)]


def test_limits_are_carried_out():
    Identity("a limit", Limit(1 - exp(-x), x, oo), 1).check(Given())


def test_replacing_a_field_keeps_the_rest():
    assert replace(theorem(), title="Other").verify().ok
