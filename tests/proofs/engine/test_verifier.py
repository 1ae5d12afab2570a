"""The machine refuses gaps, false certificates, lemmas that rest on what fails, errors, steps without end."""

from dataclasses import replace

import pytest
from sympy import Integral, Limit, Ne, exp, oo, symbols

import proofs.engine.lemmas
from proofs.engine.given import Given
from proofs.engine.notation import D, N, SquaredNorm, columns, matrices, pinv
from proofs.engine.statements import at_least, equal, implies, more_than
from proofs.engine.steps import Identity, Inequality, Refused
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem, pseudo_inverse

a, b, c, x = symbols("a b c x", real=True)
X = matrices("X", D, N)
u, v = columns("u v", D)
TEXT = "T0. Equality is transitive.\n\nIf a = c and c = b then a = b.\n\nPredicts: a = 2 for b = 2.\n\nWhy: through c."
first, second = Hypothesis("a = c", equal(a, c)), Hypothesis("c = b", equal(c, b))
transitive = Lemma("a = b", equal(a, b), "through c", given=[first, second])


def theorem(*lemmas, **changes) -> Theorem:
    """``a = b`` from ``a = c`` and ``c = b``, or other lemmas."""
    parts = {
        "text": TEXT,
        "lemmas": lemmas or (transitive,),
        "controls": () if lemmas else (Control("a = -b", "a = b", -b), Control("c is free", first)),
        "scope": "numbers",
        "status": "proved",
        "functions": (),
        "examples": ({a: 2, b: 2, c: 2},),
    }
    return Theorem(**{**parts, **changes})


def test_a_sound_theorem_passes():
    report = theorem().verify()
    assert report.ok
    assert [control.rejected for control in report.controls] == [True, True]
    assert all(control.residual for control in report.controls)


def test_the_text_is_read_in_its_parts():
    found = theorem()
    assert (found.id, found.title) == ("T0", "Equality is transitive")
    assert (found.statement, found.predicts) == ("If a = c and c = b then a = b.", "a = 2 for b = 2.")
    assert found.why == "through c."


def test_a_control_that_is_true_is_not_rejected():
    report = theorem(controls=(Control("the claim itself", "a = b", b),)).verify()
    assert not report.ok
    assert not report.controls[0].rejected


def test_a_control_is_not_rejected_by_an_error():
    broken = Control("not a statement of the proof", "a = b", implies(equal(a, b), implies(equal(a, b), equal(b, a))))
    refusal = theorem().refusal({"a = b": broken.put})
    assert refusal
    assert refusal.error
    assert not theorem().control(broken).rejected


def test_every_definition_must_be_borne_out():
    with pytest.raises(ValueError, match="definitions without lemmas"):
        theorem(Definition("a", equal(a, b)))


def test_a_changed_definition_is_refused_by_the_lemmas_where_it_is_written_out():
    half = theorem(Definition("a", equal(a, b / 2)), Lemma("twice", equal(2 * a, b), "by halves", where=["a"]))
    assert half.steps()[0].ok
    refusal = half.refusal({"a": equal(a, b)})
    assert refusal
    assert refusal.proves == "twice"


def test_parts_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="b = a"):
        theorem().steps({"b = a": equal(b, a)})
    with pytest.raises(ValueError, match="b = a"):
        theorem(controls=(Control("no such part", "b = a", b),))
    with pytest.raises(ValueError, match="not before it"):
        theorem(Lemma("a = b", equal(a, b), "by itself", uses=["a = b"]))


def test_examples_must_satisfy_hypotheses_and_claim():
    assert not theorem(examples=({a: 1, b: 1, c: 2},)).verify().ok


def test_contradictory_hypotheses_prove_nothing_about_matrices():
    nonsense = [Hypothesis("one", equal(X, 0)), Hypothesis("two", equal(X.T * X, 1))]
    (step,) = theorem(Lemma("X = 0", equal(X, 0), "from nonsense", given=nonsense)).steps()
    assert not step.ok
    assert "contradict" in step.error


def test_a_step_without_end_is_stopped(monkeypatch):
    def endless(self, given):
        while True:
            pass

    monkeypatch.setattr(proofs.engine.lemmas, "SECONDS_PER_STEP", 1)
    monkeypatch.setattr(Identity, "check", endless)
    (step,) = theorem(Lemma("endless", equal(a, b), "never", given=[first])).steps()
    assert not step.ok
    assert "TimeoutError" in step.error


def test_unknown_hypotheses_and_statuses_are_named():
    with pytest.raises(ValueError, match="no parts or hypotheses"):
        theorem().steps(without=("b = d",))
    with pytest.raises(ValueError, match="status"):
        theorem(status="obvious")
    with pytest.raises(ValueError, match="shapes"):
        theorem(Lemma("sizes", equal(matrices("A", D, N) * matrices("A", N, D), 1), "of one name"))


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
    true, false = (Lemma("first", equal(a, factor * b), "given", given=[second, first]) for factor in (1, 2))
    squares = Lemma("second", equal(a**2, b**2), "squared", uses=["first"])
    assert all(step.ok for step in theorem(true, squares).steps())
    refused = theorem(false, Lemma("second", equal(a, 2 * b), "what is false", uses=["first"])).steps()
    assert [step.ok for step in refused] == [False, False]
    assert "rests on 'first'" in refused[1].residual


def test_a_lemma_says_what_its_statement_says():
    larger = Lemma("larger", at_least(a, b), "by a square", certificate=(a - b) ** 2)
    assert not theorem(larger).steps()[0].ok
    (step,) = theorem(Lemma("equal", implies(equal(a, b), equal(a**2, b * a)), "antecedents")).steps()
    assert step.ok
    (step,) = theorem(Lemma("larger", at_least(a, b), "no certificate")).steps()
    assert "not seen to be non-negative" in step.residual
    (step,) = theorem(Lemma("neither", a, "no relation")).steps()
    assert "neither" in step.error
    (step,) = theorem(Lemma("numbers", more_than(exp(1) ** 0 * 2, 1), "in exact numbers")).steps()
    assert step.ok


def test_a_relation_is_checked_as_it_is_written():
    step = proofs.engine.lemmas._step("name", equal(a, c), (equal(a, b),), rules={c: b})
    assert isinstance(step, Identity)
    assert (step.left, step.right, step.assuming) == (a, b, (equal(a, b),))
    step = proofs.engine.lemmas._step("name", at_least(a, b), certificate=a - b)
    assert isinstance(step, Inequality)
    assert (step.larger, step.smaller, step.strict) == (a, b, False)
    step = proofs.engine.lemmas._step("name", more_than(a, b))
    assert isinstance(step, Inequality)
    assert (step.certificate, step.strict) == (a - b, True)


def test_a_dropped_hypothesis_is_missed():
    X_plus = pseudo_inverse(X)
    projection = theorem(Lemma("projection", equal(X * pinv(X) * X, X), "Penrose", given=[X_plus]))
    assert [step.ok for step in projection.steps()] == [True]
    assert [step.ok for step in projection.steps(without=(X_plus.name,))] == [False]


def test_a_hypothesis_is_in_force_only_where_it_is_given():
    assert [step.ok for step in theorem(replace(transitive, given=[first])).steps()] == [False]


def test_limits_are_carried_out():
    assert theorem(Lemma("a limit", equal(Limit(1 - exp(-x), x, oo), 1), "at infinity")).steps()[0].ok
    Identity("a limit", Limit(1 - exp(-x), x, oo), 1).check(Given())


def test_replacing_a_field_keeps_the_rest():
    assert replace(theorem(), scope="other numbers").verify().ok


def cites(source: Theorem, *given: Hypothesis) -> Theorem:
    """``a^2 = b^2``, by ``a = b`` of another theorem for c and x in place of a and c."""
    cited = source.cite("a = b", {a: c, c: x}, given=given)
    return theorem(cited, Lemma("squares", equal(c**2, b**2), "by the other theorem", uses=[cited.name]))


c_is_x, x_is_b = Hypothesis("c = x", equal(c, x)), Hypothesis("x = b", equal(x, b))


def test_a_lemma_of_another_theorem_holds_where_its_hypotheses_do():
    assert all(step.ok for step in cites(theorem(), c_is_x, x_is_b).steps())
    step, rests_on_it = cites(theorem(), c_is_x).steps()
    assert "'c = b' of T0 does not follow" in step.residual
    assert not rests_on_it.ok


def test_what_is_not_zero_there_is_not_zero_here():
    some = Hypothesis("a is not zero", Ne(a, 0))
    source = theorem(Lemma("one", equal(a / a, 1), "divided", given=[some]))
    for given, holds in ([], False), ([Hypothesis("c is not zero", Ne(c, 0))], True):
        assert [step.ok for step in theorem(source.cite("one", {a: 2 * c}, given)).steps()] == [holds]


def test_no_lemma_of_a_theorem_that_is_not_verified_is_cited():
    false = theorem(replace(transitive, statement=equal(a, 2 * b)))
    mutant = replace(theorem(), lemmas=(replace(transitive, given=[first]),))
    for source in (false, mutant):
        step, rests_on_it = cites(source, c_is_x, x_is_b).steps()
        assert "'a = b' of T0 is not verified" in step.residual
        assert not rests_on_it.ok


def test_no_mutant_of_the_other_theorem_leaks():
    source = theorem()
    citing = cites(source, c_is_x, x_is_b)
    assert source.refusal({"a = b": equal(a, -b)})
    assert all(step.ok for step in citing.steps())
    cited = citing.lemmas[0].name
    refusal = citing.refusal({cited: equal(c, -b)})
    assert refusal
    assert "T0 says" in refusal.residual


def test_what_a_symbol_is_assumed_to_be_must_be_so_of_what_stands_for_it():
    size = symbols("s", positive=True)
    source = theorem(Lemma("positive", more_than(size, 0), "assumed"))
    assert [step.ok for step in theorem(source.cite("positive", {size: 2 * size})).steps()] == [True]
    (step,) = theorem(source.cite("positive", {size: a})).steps()
    assert "a is not known" in step.residual
