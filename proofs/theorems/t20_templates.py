r"""T20. Templates that are no matching: which basis the head has instead.

With orthonormal features a head has the singular vectors of its template T, carried by X and Y. The order
:math:`T_{ij} = [i \ge j]` of n things has, for :math:`a_k = \frac{(2k - 1)\pi}{4n + 2}`,

.. math:: \sigma_k = \frac{1}{2\sin a_k} , \qquad u_k \propto \sin 2ia_k , \qquad v_k \propto \cos(2j - 1)a_k ,

entries of at most :math:`2/\sqrt{2n + 1}`. Centred over keys :math:`a_k = k\pi/2n`; over both sides :math:`a_k =
k\pi/n`, each value twice, any phase being added to both angles. The sign of i - j has :math:`\sigma = \cot a` and
:math:`u \propto \sin(2i - 1)a`. A template of :math:`i - j \bmod n` has Fourier planes, one of equal categories their
indicators with :math:`\sqrt{n_cn'_c}`, one of a product of sizes a single direction.

Predicts: an order of 29 things has the values 18.8, 6.27, 3.77, 2.70, falling like the odd numbers; a head that
compares under softmax shows discrete cosines, and no feature.

Why: rows i and i - 1 of the order differ by :math:`e_i`: its inverse is the difference S of neighbours, and sums are
differences read backwards. With :math:`u_i = \sin(2ai + c), v_j = \cos((2j - 1)a + c)`, any a and c,

.. math:: u_i - u_{i-1} = 2\sin a\,v_i , \qquad v_i - v_{i+1} = 2\sin a\,u_i , \qquad
          u_i + u_{i-1} = 2\cos a\,\sin((2i - 1)a + c) ,

so that :math:`Su` is :math:`2\sin a\,v` but for :math:`u_0` in the first place and :math:`S^Tv` is :math:`2\sin a\,u`
but for :math:`w = v_{n+1}` in the last, whence :math:`2\sin a\,Tv = u - u_0\mathbf 1` and :math:`2\sin a\,T^Tu = v -
w\mathbf 1`. The angles are those at which the ends vanish: :math:`u_0 = w = 0` as it is, :math:`u_0 = u_n = 0` where
keys are centred, :math:`u_n = u_0, w = v_1` where both are, :math:`u_n = -u_0` for the sign :math:`G = 2T - \mathbf
1\mathbf 1^T - 1` as it is.
"""

from sympy import Identity as One
from sympy import ImmutableMatrix, Rational, cos, expand, expand_trig, eye, ones, pi, sin, symbols

from proofs.engine.notation import D, Inner, M, N, SquaredNorm, columns, matrices, table, total
from proofs.engine.statements import at_least, conjunction, equal, implies, more_than
from proofs.engine.verifier import Control, Definition, Hypothesis, Lemma, Theorem

n, K = symbols("n K", integer=True, positive=True)
i, k, at = symbols("i k d", integer=True)
a, c, theta, y = symbols("a c theta y", real=True)
d, q, sigma, u_0, u_n, v_1, w, z_0, z_n = symbols("d q sigma u_0 u_n v_1 w z_0 z_n", real=True)
T, S, G, X, Y = *matrices("T S G", n, n), *matrices("X Y", D, n)
u, v, x, z, one, first, last = columns("u v h z 1 e_1 e_n", n)
rows, cols = columns("alpha beta", M)
E, F, (e, one_k), one_m = matrices("E", N, K), matrices("F", M, K), columns("e 1_K", K), columns("1_M", M)
g, (A, B, n_c, n_k) = table("g"), symbols("A B n_c n'_c", real=True)
size, doubled, sine, cosine = symbols("L s S_i C_i", real=True)
C = One(n) - one * one.T / n
a_order, a_keys, a_both = (2 * k - 1) * pi / 2 / (2 * n + 1), k * pi / (2 * n), k * pi / n
a_sign = (2 * k - 1) * pi / (2 * n)


def left(i, c=c):
    """Entry i of the left vector."""
    return sin(2 * a * i + c)


def right(j, c=c):
    """Entry j of the right vector."""
    return cos(a * (2 * j - 1) + c)


def midway(i, c=c):
    """Entry i of the left vector of the sign."""
    return sin(a * (2 * i - 1) + c)


def around(middle, *nodes):
    """Addition theorems: sines and cosines by those of a middle angle and of the distance from it."""
    return {node: expand_trig(node.func(y + expand(node.args[0] - middle))).xreplace({y: middle}) for node in nodes}


def halved(middle, node):
    """The cosine of twice an angle, and the square of the angle's sine."""
    twice = expand_trig(cos(2 * y + expand(node.args[0] - 2 * middle))).xreplace({y: middle})
    return {node: twice, sin(middle) ** 2: 1 - cos(middle) ** 2}


def steps(count):
    """The order and the difference of neighbours, written out."""
    pairs = [[i - j for j in range(count)] for i in range(count)]
    order = ImmutableMatrix([[int(gap >= 0) for gap in row] for row in pairs])
    return order, ImmutableMatrix([[int(gap == 0) - int(gap == 1) for gap in row] for row in pairs])


def entries(function, count):
    """A column of entries 1 to count."""
    return ImmutableMatrix([function(i) for i in range(1, count + 1)])


def over(function):
    """Sum over the steps round the cycle."""
    return total(g[at] * function, (at, 1, n))


inverse = Hypothesis("S is the inverse of T", equal(T * S, 1), equal(S * T, 1))
edges = Hypothesis("T has a first column and a last row of ones", equal(T * first, one), equal(T.T * last, one))
both_ways = Hypothesis("of two things one is the larger", equal(T + T.T, one * one.T + One(n)))
ends = Hypothesis("ends", equal(Inner(one, one), n), equal(Inner(last, u), u_n), equal(Inner(first, v), v_1),
                  equal(Inner(last, one), 1), equal(Inner(first, one), 1), equal(Inner(last, z), z_n))  # fmt: skip
differences = Hypothesis("differences of u and v", equal(S * u, d * v + u_0 * first),
                         equal(S.T * v, d * u + w * last))  # fmt: skip
other_phase = Hypothesis("the other phase", equal(S * z, d * x + z_0 * first))
other_halfway = Hypothesis("half-way between neighbours, the other phase", equal(2 * sigma * z - x, -q * v))
halfway = Hypothesis("half-way between neighbours", equal(2 * sigma * u - v, q * x))
slope = Hypothesis("sigma is 1/d", more_than(d, 0), more_than(sigma, 0), equal(d * sigma, 1))
orthonormal_features = Hypothesis("features are orthonormal", equal(X.T * X, 1), equal(Y.T * Y, 1))
quadrature = Hypothesis("cosine and sine of one frequency", equal(Inner(rows, cols), 0),
                        equal(SquaredNorm(rows), SquaredNorm(cols)))  # fmt: skip
sizes = Hypothesis("n_c queries and n'_c keys of a category", equal(E.T * E * e, n_c * e), equal(F.T * F * e, n_k * e))
equal_sizes = Hypothesis("as many keys of every category", equal(F.T * one_m, n_k * one_k))
order = [inverse, edges, differences]
SUMS = "the order adds up", "the order adds up, the other way", "the order adds up, the other phase"
SIGNS = "the sign adds up", "the sign adds up, the other way"
written, neighbours = steps(4)

lemmas = (
    Lemma("neighbours of u", equal(left(i) - left(i - 1), 2 * sin(a) * right(i)), "sin(y + a) - sin(y - a)",
          rules=around(a * (2 * i - 1) + c, left(i), left(i - 1))),
    Lemma("neighbours of v", equal(right(i) - right(i + 1), 2 * sin(a) * left(i)), "cos(y - a) - cos(y + a)",
          rules=around(2 * a * i + c, right(i), right(i + 1))),
    Lemma("half-way", equal(2 * left(i) - 2 * sin(a) * right(i), 2 * cos(a) * midway(i)),
          "the mean of sin(y + a) and sin(y - a)", rules=around(a * (2 * i - 1) + c, left(i))),
    Lemma("a quarter turn", equal(midway(i), right(i, c - pi / 2)), "the other vector of a plane",
          rules=around(a * (2 * i - 1) + c, right(i, c - pi / 2))),
    Lemma("the inverse of an order is a difference", equal(written * neighbours, eye(4)),
          "rows of the order differ by one unit vector; n = 4, as for every n"),
    Lemma("ends: as it is", equal(right(n + 1, 0).xreplace({a: a_order}), 0), "w = 0: a cosine of odd right angles"),
    Lemma("ends: keys centred", equal(left(n, 0).xreplace({a: a_keys}), 0), "u_n = 0: the sine of k pi"),
    Lemma("ends: both centred", equal(left(n).xreplace({a: a_both}), left(0)), "u_n = u_0: whole turns"),
    Lemma("ends: both centred, keys", equal(right(n + 1).xreplace({a: a_both}), right(1).xreplace({a: a_both})),
          "w = v_1", rules=around(right(1).xreplace({a: a_both}).args[0], right(n + 1).xreplace({a: a_both}))),
    Lemma("ends: sign as it is", equal(left(n).xreplace({a: a_sign}), -left(0)), "u_n = -u_0: odd half turns"),
    Lemma("the order adds up", equal(T * v, sigma * (u - u_0 * one)), "T S = 1, T e_1 = 1", given=[*order, slope]),
    Lemma("the order adds up, the other way", equal(T.T * u, sigma * (v - w * one)), "T^T S^T = 1, T^T e_n = 1",
          given=[*order, slope]),
    Lemma("the order adds up, the other phase", equal(T * x, sigma * (z - z_0 * one)), "the same",
          given=[inverse, edges, other_phase, slope]),
    Lemma("the sum of v", equal(Inner(one, v), sigma * (u_n - u_0)), "the last row of the order",
          given=[edges, ends, slope], uses=[SUMS[0]]),
    Lemma("the sum of u", equal(Inner(one, u), sigma * (v_1 - w)), "the first column of the order",
          given=[edges, ends, slope], uses=[SUMS[1]]),
    Lemma("the sum of h", equal(Inner(one, x), sigma * (z_n - z_0)), "the last row of the order",
          given=[edges, ends, slope], uses=[SUMS[2]]),
    Lemma("order, as it is",
          implies([equal(u_0, 0), equal(w, 0)], conjunction(equal(T * v, sigma * u), equal(T.T * u, sigma * v))),
          "a singular pair of value sigma = 1/(2 sin a)", uses=SUMS[:2]),
    Lemma("order, keys centred",
          implies([equal(u_0, 0), equal(u_n, 0)],
                  conjunction(equal(T * C * v, sigma * u), equal((T * C).T * u, sigma * v))),
          "v has no mean, and the constant left over is centred away", given=[ends],
          uses=[*SUMS[:2], "the sum of v"]),
    Lemma("order, both centred",
          implies([equal(u_n, u_0), equal(w, v_1)],
                  conjunction(equal(C * T * C * v, sigma * u), equal((C * T * C).T * u, sigma * v))),
          "neither has a mean, whatever the phase", given=[ends], uses=[*SUMS[:2], "the sum of v", "the sum of u"]),
    Definition("sign", equal(G, 2 * T - one * one.T - One(n))),
    Lemma("the sign adds up", equal(G * v, q * x - sigma * (u_0 + u_n) * one), "2 T v - 1 (1^T v) - v",
          given=[slope, halfway], where=["sign"], uses=[SUMS[0], "the sum of v"]),
    Lemma("the sign adds up, the other way", equal(-G * x, q * v + sigma * (z_0 + z_n) * one),
          "the same", given=[slope, other_halfway], where=["sign"],
          uses=[SUMS[2], "the sum of h"]),
    Lemma("the sign is odd",
          conjunction(equal(G.T, -G), equal((G * C).T, -C * G), equal((C * G * C).T, -C * G * C)),
          "T^T = 1 1^T + 1 - T", given=[both_ways], where=["sign"]),
    Lemma("sign, as it is",
          implies([equal(u_n, -u_0), equal(z_n, -z_0)],
                  conjunction(equal(G * v, q * x), equal(-G * x, q * v))),
          "a singular pair of value cot a, at both phases", uses=SIGNS),
    Lemma("sign, keys centred",
          implies([equal(u_0, 0), equal(u_n, 0)],
                  conjunction(equal(G * C * v, q * x), equal(-C * G * x, q * v))),
          "v has no mean, and the constant left over is centred away", given=[ends], uses=[*SIGNS, "the sum of v"]),
    Lemma("sign, both centred",
          implies([equal(u_n, u_0), equal(w, v_1), equal(z_n, z_0)],
                  conjunction(equal(C * G * C * v, q * x), equal(-C * G * C * x, q * v))),
          "neither has a mean, whatever the phase", given=[ends], uses=[*SIGNS, "the sum of v", "the sum of h"]),
    Lemma("squares of u", equal(2 * left(i) ** 2, (1 - right(i, a + 2 * c)).xreplace({a: 2 * a})),
          "a right vector at twice the angle", rules=halved(2 * a * i + c, cos(2 * a * (2 * i - 1) + 2 * a + 2 * c))),
    Lemma("length: as it is",
          implies([equal(2 * size, n - doubled), equal(doubled, (sin((2 * k - 1) * pi) - sine) / (2 * sine)),
                   more_than(sine, 0)], equal(size, (2 * n + 1) / 4)),
          "the sum of v at twice the angle, S_i = sin 2a: its ends are sin (4n + 2)a = 0 and sin 2a"),
    Lemma("length: centred", implies([equal(2 * size, n - doubled), equal(doubled, 0)], equal(size, n / 2)),
          "its ends are equal"),
    Lemma("no feature is aligned",
          implies(equal(sine**2 + cosine**2, 1), at_least(4 / (2 * n + 1), sine**2 / ((2 * n + 1) / 4))),
          "an entry over the length", certificate=cosine**2 / ((2 * n + 1) / 4)),
    Lemma("carried by features", equal(X * T * Y.T * (Y * v), X * (T * v)), "Y^T Y = 1", given=[orthonormal_features]),
    Lemma("carried by features, the other way", equal((X * T * Y.T).T * (X * u), Y * (T.T * u)), "X^T X = 1",
          given=[orthonormal_features]),
    Lemma("round a cycle",
          equal(over(cos(theta * (i - at))),
                over(cos(theta * at)) * cos(theta * i) + over(sin(theta * at)) * sin(theta * i)),
          "each step turns the plane", rules=around(theta * i, cos(theta * (i - at)))),
    Lemma("a frequency is a plane",
          conjunction(equal(Inner(A * rows + B * cols, A * cols - B * rows), 0),
                      equal(SquaredNorm(A * rows + B * cols), (A**2 + B**2) * SquaredNorm(rows))),
          "both directions are stretched alike", given=[quadrature]),
    Lemma("categories", conjunction(equal(E * F.T * (F * e), n_k * E * e), equal((E * F.T).T * (E * e), n_c * F * e)),
          "T = E F^T, its columns the indicators", given=[sizes]),
    Lemma("categories: value", equal((E * F.T).T * (E * F.T) * (F * e), n_c * n_k * F * e), "sigma^2 = n_c n'_c",
          given=[sizes]),
    Lemma("categories: centred", implies(equal(Inner(one_k, e), 0),
                                         equal(E * F.T * (F * e - one_m * one_m.T * F * e / M), n_k * E * e)),
          "differences of categories of one size have no mean", given=[sizes, equal_sizes]),
    Lemma("a product of sizes", equal(rows * cols.T * cols, SquaredNorm(cols) * rows), "one direction"),
)  # fmt: skip


UNITS, PAIRS = ImmutableMatrix(eye(4)), ImmutableMatrix([[1, 0], [1, 0], [0, 1], [0, 1]])


def _example(number, angle, phase, which):
    """An order of n things at an exact angle, of which `which` says the case; two categories of two and of one."""
    at = {a: angle, c: phase}
    template, difference = steps(number)

    def column(function, phase=phase):
        return entries(lambda i: function(i, phase).xreplace(at), number)

    shift, square = phase - pi / 2, ImmutableMatrix(eye(number))
    return {
        n: number, D: number, N: 3, M: 4, K: 2, i: 2, k: which, **at, theta: pi / 3, T: template, S: difference,
        G: template - template.T, u: column(left), v: column(right), x: column(midway), z: column(left, shift),
        one: ones(number, 1).as_immutable(), first: square[:, 0], last: square[:, -1], u_0: left(0).xreplace(at),
        u_n: left(number).xreplace(at), v_1: right(1).xreplace(at), w: right(number + 1).xreplace(at),
        z_0: left(0, shift).xreplace(at), z_n: left(number, shift).xreplace(at), d: 2 * sin(angle),
        sigma: 1 / (2 * sin(angle)), q: cos(angle) / sin(angle), X: square, Y: -square, g: list(range(1, number + 1)),
        A: 2, B: -1, rows: UNITS[:, 0], cols: UNITS[:, 1], E: ImmutableMatrix([[1, 0], [1, 0], [0, 1]]), F: PAIRS,
        e: ImmutableMatrix([1, 0]), n_c: 2, n_k: 2, one_k: ImmutableMatrix([1, 1]), one_m: ones(4, 1).as_immutable(),
        size: Rational(2 * number + 1, 4), doubled: -Rational(1, 2), sine: Rational(3, 5), cosine: Rational(4, 5),
    }  # fmt: skip


as_it_is = _example(4, pi / 6, 0, 2)
keys_centred = {**_example(3, pi / 6, 0, 1), size: Rational(3, 2), doubled: 0}
both_centred = {**_example(3, pi / 3, pi / 6, 1), N: 4, E: PAIRS, e: ImmutableMatrix([1, -1])}
sign_as_it_is = {**_example(3, pi / 6, pi / 3, 1), sine: 2}
examples = (as_it_is, keys_centred, both_centred, sign_as_it_is)


def _ordered(template):
    """Another T, its inverse and its sign, beside the rest of an example."""
    base = _example(template.rows, pi / 6, 0, 2)
    square, constant = eye(template.rows), base[one] * base[one].T
    return {**base, T: template, S: template.inv(), G: 2 * template - constant - square}


crossed = ImmutableMatrix(4, 4, lambda i, j: {(1, 2): 1, (2, 1): -1}.get((int(i), int(j)), 0))
uneven = ImmutableMatrix(4, 4, lambda i, j: [0, -1, 1, -1][int(j)] if int(i) == 2 else 0)
middle, half = ImmutableMatrix([[2, 1], [1, 2]]) / 2, ImmutableMatrix([1, 1]) / 2
alternating = ImmutableMatrix([-1, 1, -1, 1])
counterexamples = {
    inverse: {**_ordered(as_it_is[T] + crossed), S: as_it_is[S]},
    edges: {
        **_ordered(middle), first: half, last: half, u: 3 * half / 2, v: 0 * half, x: 3 * half, z: 3 * half / 2,
        u_0: 1, u_n: Rational(3, 4), v_1: 0, w: -Rational(3, 2), z_0: -2, z_n: Rational(3, 4), q: 1,
    },
    both_ways: _ordered(as_it_is[T] + uneven),
    ends: {**as_it_is, u_n: 7},
    differences: {**as_it_is, w: 5},
    other_phase: {**as_it_is, z_0: 5},
    halfway: {
        **as_it_is, x: as_it_is[x] + 2 * alternating, z: as_it_is[z] + alternating, z_0: as_it_is[z_0] + 1,
        z_n: as_it_is[z_n] + 1,
    },
    other_halfway: {
        **as_it_is, z: as_it_is[z] + as_it_is[one], z_0: as_it_is[z_0] + 1, z_n: as_it_is[z_n] + 1,
    },
    slope: {
        **_ordered(eye(1).as_immutable()), sigma: 2, u: 3 * eye(1), v: eye(1), x: 11 * eye(1), z: 5 * eye(1) / 2,
        u_0: 2, u_n: 3, v_1: 1, w: -2, z_0: -Rational(17, 2), z_n: Rational(5, 2), q: 1,
    },
    orthonormal_features: {**as_it_is, X: 2 * as_it_is[X]},
    quadrature: {**as_it_is, cols: 2 * as_it_is[cols]},
    sizes: {**as_it_is, n_c: 3},
    equal_sizes: {**both_centred, one_m: as_it_is[rows]},
}  # fmt: skip

theorem = Theorem(
    __doc__, lemmas,
    controls=(
        Control("the order is its own difference", "the inverse of an order is a difference", written),
        Control("the angles of a centred order, as it is", "ends: as it is",
                equal(right(n + 1, 0).xreplace({a: a_keys}), 0)),
        Control("any angle, as it is", "order, as it is",
                conjunction(equal(T * v, sigma * u), equal(T.T * u, sigma * v))),
        Control("any angle, keys centred", "order, keys centred",
                conjunction(equal(T * C * v, sigma * u), equal((T * C).T * u, sigma * v))),
        Control("sine for cotangent", "the sign adds up", sigma * x - sigma * (u_0 + u_n) * one),
        Control("features that are not orthonormal", orthonormal_features),
        Control("a category's value is its number of keys", "categories: value", n_k * n_k * F * e),
        Control("unequal sizes stay when centred", equal_sizes),
    ),
    scope="general n, D, N, M; the entries of the order and its inverse written out for n = 4", status="proved",
    functions=("svtheory.prediction.templates.order_spectrum", "svtheory.prediction.templates.cyclic_spectrum"),
    examples=examples, counterexamples=counterexamples,
)  # fmt: skip
