"""The theorems, one a file, each of which reads as mathematics and ends with `theorem`.

1. The docstring says "T1. Title.", the statement, "Predicts: ..." in a number or a formula, and "Why: ...".
2. Symbols: matrices of symbolic shape, whose pseudo-inverses mean nothing until `pseudo_inverse` is given; vectors are
   columns of shape ``(D, 1)``; sums of general length are over `table` entries; signs are hypotheses (``a > 0``) or
   assumptions of symbols.
3. `Hypothesis` objects, then `lemmas`: a `Definition`, or a `Lemma` with its statement, the reason, the hypotheses it
   is given, the definitions `where` it is written out, the earlier parts it uses, and for an inequality a certificate,
   equal to larger - smaller, whose sign shows. A lemma of another theorem is cited, never repeated.
4. Exact values: `examples`, at which all holds, and for each hypothesis a counterexample, at which only it fails and
   the claim with it. They guard against hypotheses that contradict one another, and show each mutant false.
5. At least two controls: false neighbours, by a part changed or a hypothesis dropped.

What experiments test a theorem is said by the experiments; nothing here uses floating point.
"""
