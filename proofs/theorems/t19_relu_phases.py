r"""T19. The ReLU autoencoder in the sparse limit: interference below zero costs nothing.

Unit features, biases :math:`-\beta_j`, :math:`0 \le \beta_j \le 1`, activations present with probability p and then
uniform on (0, 1). As p falls to 0, :math:`3E|f - f'|^2/p` tends to

.. math:: E_R = \sum_j \Big[\beta_j^3 + 3\beta_j^2(1 - \beta_j) + \sum_{i \ne j,\, c_{ij} > \beta_j} \frac{(c_{ij} -
          \beta_j)^3}{c_{ij}}\Big] , \qquad c_{ij} = w_i^Tw_j ,

which is 0 iff every :math:`\beta_j = 0` and no product of two features is positive; at most 2D unit vectors have no
positive product. A head that matches :math:`w_0` with :math:`w_1` adds :math:`g(s_0s_1 - 1)`. For :math:`N \le 2D - 2`
every minimum is orthogonalised, at any g > 0, and costs nothing. The :math:`s_0s_1` of the lowest state never rises
with g.

Predicts: for N = 2D antipodal pairs, which cost 3g, are left for less crowded states where g exceeds the least
:math:`E_R/(4 - s_0s_1)`; for N = 2D - 1 the pair is one-sided, s = (1, 2), at any small g. A linear autoencoder (T10)
holds its pair in superposition up to :math:`g_c = 2(N - D)/(D - 2)`.

Why: a token has exactly one feature with probability :math:`Np(1-p)^{N-1}`, none in :math:`(1-p)^N`, which costs
nothing as no bias lets an output through, and more with a probability of order :math:`p^2`. With one feature of size f
output j is :math:`(f - \beta_j)_+` if it is its own, else :math:`(c_{ij}f - \beta_j)_+`, and three times the mean of
the squared error is an integral over f. No term is negative; one is positive if its bias is, or if a product is where
the bias is 0.

The bound is classical, by induction on D. Take one of the vectors, v, and project the others on its complement:
products stay non-positive, as :math:`(v^Tx)(v^Ty) \ge 0` is taken away. A vector that vanishes is a negative multiple
of v, and two such would have a positive product: at most one vanishes, so that all but two are left in D - 1
dimensions. In one dimension three numbers cannot have pairwise opposite signs: the product of their three products is a
square. Antipodal pairs on an orthonormal basis reach the bound, and with two features alone on D - 2 of the dimensions
2D - 2 features have no positive product. There :math:`s_0 = s_1 = 1`, the least that they can be, and only there.

For each state the energy is a line in g of slope :math:`s_0s_1 - 1`; of two that are lowest at two couplings, the one
at the larger has the smaller slope.
"""

from sympy import Add, Derivative, ImmutableMatrix, Integral, Limit, Rational, Symbol, eye, symbols
from sympy import Identity as One

from proofs.engine.notation import D, Inner, SquaredNorm, columns, matrices
from proofs.engine.statements import at_least, conjunction, equal, implies, more_than, orthonormal
from proofs.engine.verifier import Control, Hypothesis, Lemma, Theorem

n = Symbol("n", integer=True, positive=True)
beta, c, f, p, r, g, h = symbols("beta c f p r g h", real=True)
a, b, L, R = symbols("a b L R", real=True)
one, two, three = symbols("x_1 x_2 x_3", real=True)
E_1, E_2, L_1, L_2 = symbols("E_1 E_2 L_1 L_2", real=True)
v, x, y, u_0, u_1, w_0, w_1 = columns("v x y u_0 u_1 w_0 w_1", D)
W, V = matrices("w_r", D, n), matrices("w_q", D, n)
across = One(D) - v * v.T
pair = w_0 * w_0.T + w_1 * w_1.T
S = u_0 * u_0.T + u_1 * u_1.T + W * W.T
own = Integral(f**2, (f, 0, beta)) + Integral(beta**2, (f, beta, 1))
own_cost = beta**3 + 3 * beta**2 * (1 - beta)
other = Integral((c * f - beta) ** 2, (f, r, 1))
other_cost = (c - beta) ** 3 / c


def crowding(operator, feature):
    """``s = w^T S w``."""
    return Inner(feature, operator * feature)


def extra(feature, partner):
    """What crowds a unit feature beside itself."""
    return Inner(feature, partner) ** 2 + SquaredNorm(W.T * feature)


bias = Hypothesis("biases lie in [0, 1]", at_least(beta, 0), at_least(1, beta))
unit = Hypothesis("v is a unit vector", equal(SquaredNorm(v), 1))
units = Hypothesis("u_0 and u_1 are unit vectors", equal(SquaredNorm(u_0), 1), equal(SquaredNorm(u_1), 1))
apart = Hypothesis("the pair are orthonormal", orthonormal(w_0, w_1))
alone = Hypothesis("the others are orthogonal to the pair", equal(V.T * w_0, 0), equal(V.T * w_1, 0))
opposite = [equal(Inner(v, x), -a), equal(Inner(v, y), -b)]
lowest_at_g, lowest_at_h = at_least(E_2 + g * L_2, E_1 + g * L_1), at_least(E_1 + h * L_1, E_2 + h * L_2)

lemmas = (
    Lemma("tokens with one feature", equal(Limit(p * (1 - p) ** (n - 1) / p, p, 0), 1),
          "each is alone with probability p to leading order"),
    Lemma("its own output", equal(3 * own, own_cost), "the error is f up to the bias and the bias from there on"),
    Lemma("another's output", implies(equal(c * r, beta), equal(3 * c * other, (c - beta) ** 3)),
          "let through from f = r = beta/c on"),
    Lemma("its own output costs", implies(more_than(beta, 0), more_than(own_cost, 0)), "unless its bias is 0",
          given=[bias], certificate=own_cost),
    Lemma("its own output is free without a bias", equal(own_cost.xreplace({beta: 0}), 0), "both terms have a factor"),
    Lemma("another's output costs", implies([more_than(c, 0), more_than(c - beta, 0)], more_than(other_cost, 0)),
          "where it is let through", certificate=other_cost),
    Lemma("another's output without a bias", equal(((c - beta) ** 3).xreplace({beta: 0}), c * c**2),
          "over c the linear model's interference, if it is positive"),
    Lemma("the slope of its own output", equal(Derivative(own_cost, beta), 6 * beta * (1 - beta)), "in its bias"),
    Lemma("the slope of another's output", equal(Derivative((c - beta) ** 3, beta), -3 * (c - beta) ** 2),
          "times c: the best bias has 2 beta (1 - beta) = sum (c - beta)^2/c"),
    Lemma("across v products fall", equal(Inner(across * x, across * y), Inner(x, y) - Inner(v, x) * Inner(v, y)),
          "1 - v v^T is a projection", given=[unit]),
    Lemma("across v products stay non-positive",
          implies([at_least(-Inner(x, y), 0), *opposite, at_least(a, 0), at_least(b, 0)],
                  at_least(0, Inner(across * x, across * y))), "a product of two non-positive numbers is taken away",
          given=[unit], certificate=Add(-Inner(x, y), a * b, evaluate=False)),
    Lemma("what vanishes across v is along it", implies(equal(across * x, 0), equal(x, v * v.T * x)),
          "a negative multiple, as its product with v is not positive"),
    Lemma("of vectors that vanish across v two have a positive product",
          implies([equal(x, -a * v), equal(y, -b * v), more_than(a, 0), more_than(b, 0)], more_than(Inner(x, y), 0)),
          "so at most one vanishes", given=[unit], certificate=a * b),
    Lemma("not three numbers on a line", equal((one * two) * (two * three) * (three * one), (one * two * three) ** 2),
          "three negative products would have a negative product"),
    Lemma("all but two are left", equal(2 * (D - 1) + 2, 2 * D), "the induction step"),
    Lemma("what crowds a feature",
          conjunction(equal(crowding(S, u_0), 1 + extra(u_0, u_1)), equal(crowding(S, u_1), 1 + extra(u_1, u_0))),
          "itself, its partner and the others, each by a square", given=[units]),
    Lemma("leakage is not negative", at_least(crowding(S, u_0) * crowding(S, u_1), 1),
          "s_0 and s_1 are at least 1, and 1 only where the pair is orthogonal to all others", given=[units],
          certificate=extra(u_0, u_1) + extra(u_1, u_0) + extra(u_0, u_1) * extra(u_1, u_0)),
    Lemma("orthogonalised: no leakage",
          equal(crowding(pair + V * V.T, w_0) * crowding(pair + V * V.T, w_1) - 1, 0), "s_0 = s_1 = 1",
          given=[apart, alone]),
    Lemma("orthogonalised: how many", equal(2 + 2 * (D - 2), 2 * D - 2), "the pair, and antipodal pairs elsewhere"),
    Lemma("superposed: leakage",
          equal(crowding(2 * pair + V * V.T, w_0) * crowding(2 * pair + V * V.T, w_1) - 1, 3), "s_0 = s_1 = 2",
          given=[apart, alone]),
    Lemma("one-sided: leakage",
          equal(crowding(pair + w_1 * w_1.T + V * V.T, w_0) * crowding(pair + w_1 * w_1.T + V * V.T, w_1) - 1, 1),
          "s = (1, 2), N = 2D - 1", given=[apart, alone]),
    Lemma("superposed is left", implies(equal(g * (3 - L), R), equal(3 * g, R + g * L)),
          "for a state of E_R = R and leakage L, at g = R/(3 - L)"),
    Lemma("crowding falls with the coupling",
          implies([lowest_at_g, lowest_at_h], at_least((h - g) * (L_1 - L_2), 0)), "the lower envelope of lines",
          certificate=Add(E_2 + g * L_2 - E_1 - g * L_1, E_1 + h * L_1 - E_2 - h * L_2, evaluate=False)),
)  # fmt: skip


def _example(changes: dict) -> dict:
    """Four dimensions: a pair alone, another that leans, and the others an antipodal pair."""
    basis = eye(4)
    others = ImmutableMatrix([[0, 0], [0, 0], [1, -1], [0, 0]])
    return {
        D: 4, n: 2, beta: Rational(1, 8), c: Rational(1, 2), r: Rational(1, 4), f: 1, p: Rational(1, 3), g: 1, h: 2,
        L: 1, R: 2, a: 1, b: Rational(1, 2), one: 1, two: -2, three: 3, E_1: 1, E_2: 3, L_1: 3, L_2: Rational(3, 2),
        v: basis[:, 0], x: ImmutableMatrix([-1, 1, 0, 0]), y: ImmutableMatrix([-Rational(1, 2), -1, 0, 0]),
        u_0: basis[:, 2], u_1: ImmutableMatrix([0, 0, Rational(3, 5), Rational(4, 5)]), w_0: basis[:, 0],
        w_1: basis[:, 1], W: others, V: others, **changes,
    }  # fmt: skip


first = eye(4)[:, 0]
examples = (
    _example({}),
    _example({x: -first, y: -first / 2, beta: 0, r: 1}),
    _example({x: ImmutableMatrix([-1, 1, 0, 0]), y: ImmutableMatrix([-1, 1, 0, 0]), c: Rational(1, 16), R: 5, h: 0}),
)
counterexamples = {
    bias: _example({beta: 2}),
    unit: _example({v: 2 * first, a: 2, b: 1}),
    units: _example({u_0: 2 * first}),
    apart: _example({w_1: first}),
    alone: _example({V: ImmutableMatrix(4, 2, range(8))}),
}

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("a bias that costs its square", "its own output", 3 * beta**2),
        Control("all interference counts", "another's output", implies(equal(c * r, beta), equal(3 * c * other, c**3))),
        Control("biases of any sign", bias),
        Control("any products stay non-positive", "across v products stay non-positive",
                at_least(0, Inner(across * x, across * y))),
        Control("projected along a vector of any length", unit),
        Control("others that are not alone", alone),
        Control("superposed at the leakage of one pair", "superposed: leakage", 1),
        Control("crowding rises with the coupling", "crowding falls with the coupling",
                implies([lowest_at_g, lowest_at_h], at_least((h - g) * (L_2 - L_1), 0))),
    ),
    scope="general D and N; leading order in p; states between superposed and orthogonalised are searched, not proved",
    status="limit",
    functions=("svtheory.geometry.relu_phases.relu_energy", "svtheory.geometry.relu_phases.best_biases",
               "svtheory.geometry.relu_minima.relu_states", "svtheory.geometry.relu_minima.relu_thresholds"),
    examples=examples, counterexamples=counterexamples, references=("Rankin 1955",),
)  # fmt: skip
