r"""T12. Chance.

The squared cosine of a random unit vector with a fixed direction has the law Beta(1/2, (D-1)/2), :math:`D \ge 2`, with

.. math:: E\cos^2 = \frac1D , \qquad E|\cos| = \frac{\Gamma(D/2)}{\sqrt\pi\,\Gamma((D+1)/2)} .

The chance that the best of n comparisons exceeds a threshold is at most n times that of one (Bonferroni), whatever
their dependence; orthonormal vectors attain the bound above :math:`\cos^2 = 1/2`, where the formula for independent
comparisons is too small.

Predicts: in 64 dimensions a random direction has :math:`E|\cos| = 0.100` and :math:`E\cos^2 = 1/64`.

Why: A random unit vector is :math:`g/|g|` with g standard normal in D dimensions. Its squared cosine with a fixed
direction is :math:`x = a/(a + b)`, where :math:`a = g_1^2` has the chi-square law of one degree of freedom, and b,
independent of it, that of D - 1. With :math:`s = |g|^2 = a + b`, the map :math:`(x, s) \mapsto (a, b) = (xs, (1-x)s)`
has Jacobian s, and the joint density factors,

.. math:: \chi_m(a)\,\chi_n(b)\,s = \beta_{m/2,n/2}(a/s)\,\chi_{m+n}(s),

for all m and n: so x is independent of s, with the law Beta(m/2, n/2). Integrated over both variables the identity says
that the Beta density has total 1, as the chi-square densities do; integrated over x, that chi-squares add up (so that b
has D - 1 degrees of freedom, by induction from one). The case m = 1, n = D - 1 is the claim.

Mean: :math:`2x(1-x)\beta(x)` has the derivative :math:`(1 - Dx)\beta(x)` and vanishes at both ends, so :math:`E[x] =
1/D`. Mean of :math:`|\cos| = \sqrt x`: the square root cancels against the density, and what is left is a power of 1 -
x. Best of several: with indicators I of "above", :math:`1 - \prod(1 - I)` is the indicator of "some is above", at most
the sum of all; its mean is Bonferroni's bound, whatever the dependence. For two orthonormal vectors and one feature the
squared cosines have a sum of at most 1, so above 1/2 the bound is attained: the formula for independent comparisons,
which is smaller, is anti-conservative.
"""

from sympy import Add, Derivative, Integral, Limit, Matrix, Rational, S, exp, gamma, oo, pi, sqrt, symbols

from proofs.engine.notation import D
from proofs.engine.statements import at_least, equal, implies, more_than
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

m, n = symbols("m n", integer=True, positive=True)
x, s, y, z, a, b = symbols("x s y z a b", positive=True)
exponent, near = symbols("k xi", positive=True)
some, every, one, p = symbols("p_some p_sum I p", real=True)
first, second = symbols("c_1 c_2", real=True)


def chi_square(k, value):
    """Density of the sum of k squared standard normals."""
    return value ** (k / 2 - 1) * exp(-value / 2) / (2 ** (k / 2) * gamma(k / 2))


def beta_density(value, rest, m, n):
    """Density of the Beta law with parameters m/2 and n/2, at ``value = 1 - rest``."""
    constant = gamma((m + n) / 2) / (gamma(m / 2) * gamma(n / 2))
    return constant * value ** (m / 2 - 1) * rest ** (n / 2 - 1)


normal = exp(-(y**2) / 2) / sqrt(2 * pi)
jacobian = Matrix([x * s, (1 - x) * s]).jacobian([x, s]).det()
cosine_law = beta_density(x, 1 - x, S.One, D - 1)
flux = 2 * x * (1 - x) * cosine_law
power = 2 / (D - 1) * y ** ((D - 1) / 2)
constant = gamma(D / 2) / (sqrt(pi) * gamma((D - 1) / 2))
recurrence = {gamma(D / 2 + Rational(1, 2)): (D - 1) / 2 * gamma(D / 2 - Rational(1, 2))}

dimensions = Hypothesis("at least two dimensions", more_than(D, 1))
inside = Hypothesis("x lies in (0, 1)", more_than(1 - x, 0))
chances = Hypothesis("probabilities and indicators are not negative", at_least(some, 0), at_least(one, 0))
so_far = Hypothesis("the sum bounds the probability of any so far", at_least(every, some))


def both_above(level):
    """Of two squared cosines with a sum of at most 1 only one is above the level."""
    return implies([at_least(1, first + second), more_than(first, level)], more_than(level, second))


density = constant * x ** Rational(-1, 2) * (1 - x) ** ((D - 3) / 2)
joint = beta_density(a / (a + b), b / (a + b), m, n) * chi_square(m + n, a + b)
integral = Integral(y ** ((D - 3) / 2), (y, 0, 1))

lemmas = (
    Lemma("the square of a standard normal",
          equal((2 * normal * Derivative(sqrt(z), z)).xreplace({y: sqrt(z)}), chi_square(S.One, z)),
          "two roots, each with the slope 1/(2 sqrt z)"),
    Lemma("the Jacobian of (x, s) -> (xs, (1-x)s)", equal(jacobian, s), "a determinant"),
    Lemma("the law of cos^2", equal(chi_square(m, a) * chi_square(n, b) * (a + b), joint),
          "the joint density factors, so x and s are independent"),
    Lemma("a chi-square density has total 1", equal(Integral(chi_square(D, s), (s, 0, oo)), 1),
          "so the Beta density has total 1 too"),
    Lemma("density", equal(cosine_law, density), "one against D - 1 degrees of freedom", given=[dimensions, inside]),
    Lemma("mean: the flux", equal(Derivative(flux, x), (1 - D * x) * cosine_law),
          "(1 - D x) times the density is a derivative", given=[dimensions, inside]),
    Lemma("mean: nothing flows out at 0", equal(Limit(near**exponent * (1 - near), near, 0), 0),
          "of something that vanishes at 0, like a power of x"),
    Lemma("mean: nothing flows out at 1", equal(Limit((1 - near) ** exponent * near, near, 1, "-"), 0),
          "and at 1, like a power of 1 - x"),
    Lemma("expected |cos|: the primitive",
          equal(Derivative(constant * power, y), sqrt(x) * beta_density(x, y, S.One, D - 1)),
          "the root cancels against the density, y = 1 - x", given=[dimensions]),
    Lemma("Gamma(z + 1) = z Gamma(z)", equal(gamma(z + 1), z * gamma(z)), "by parts",
          rules={gamma(z + 1): gamma(z + 1).expand(func=True)}),
    Lemma("the primitive of a power", equal(Derivative(power, y), integral.function), "2/(D - 1) y^((D - 1)/2)",
          given=[dimensions]),
    Lemma("expected |cos|", equal(constant * integral, gamma(D / 2) / (sqrt(pi) * gamma((D + 1) / 2))),
          "its increase from 0 to 1", given=[dimensions], rules={integral: 2 / (D - 1), **recurrence}),
    Lemma("Bonferroni", at_least(every + one, 1 - (1 - some) * (1 - one)),
          "I J >= 0: one more comparison adds at most its own chance", given=[chances, so_far],
          certificate=Add(every - some, some * one, evaluate=False)),
    Lemma("orthonormal vectors are not both above 1/2", both_above(Rational(1, 2)), "their sum is at most 1",
          certificate=Add(1 - first - second, first - Rational(1, 2), evaluate=False)),
    Lemma("the independence formula is smaller", at_least(2 * p, 1 - (1 - p) ** 2), "by p^2", certificate=p**2),
)  # fmt: skip

examples = tuple(
    {
        D: dim, m: 1, n: dim - 1, x: Rational(1, 3), s: 2, a: 2, b: 5, z: 3, some: Rational(1, 4),
        every: Rational(1, 3), one: Rational(1, 5), p: Rational(1, 7), first: Rational(2, 3), second: Rational(1, 4),
    }
    for dim in (3, 5)
)  # fmt: skip
generic = {**examples[0], second: Rational(3, 4)}
counterexamples = {
    dimensions: {**examples[0], D: 1},
    inside: {**examples[0], D: 2, x: 1},
    chances: {**examples[0], some: -1, every: -1},
    so_far: {**examples[0], some: Rational(1, 2)},
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("Beta(1/2, D/2)", "density", equal(beta_density(x, 1 - x, S.One, D), density)),
        Control("a mean of 1/(D - 1)", "mean: the flux", (1 - (D - 1) * x) * cosine_law),
        Control("E|cos| is sqrt(1/D)", "expected |cos|", 1 / sqrt(D)),
        Control("the formula for independent comparisons", "Bonferroni",
                at_least(every + one - every * one, 1 - (1 - some) * (1 - one))),
        Control("no Jacobian", "the law of cos^2", equal(chi_square(m, a) * chi_square(n, b), joint)),
        Control("two orthonormal vectors above 1/4", "orthonormal vectors are not both above 1/2",
                both_above(Rational(1, 4))),
    ),
    scope="general D >= 2; any number of comparisons", status="proved",
    functions=("svtheory.spectra.alignments.chance_alignment",
               "svtheory.spectra.alignments.alignment_p_value"),
    examples=(*examples, generic), counterexamples=counterexamples, references=("Cai, Fan and Jiang 2013",),
)  # fmt: skip
